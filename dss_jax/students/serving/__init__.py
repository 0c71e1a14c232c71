"""A trained student behind HTTP.

`server` starts and stops everything and bounds what a client may hold open. A
request then passes `guard`, which refuses what may not come in, and `app`, which
reads it; `batching` lets one thread compute it together with others, by
`student_backend`. `server_metrics` counts what happens.
"""
