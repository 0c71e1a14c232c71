"""A trained student behind HTTP.

`server` starts and stops everything and bounds what a client may hold open. A
request then passes `access_control`, which refuses what may not come in, and
`app`, which reads it by `predict_requests` and answers by `predict_answers`.
`batching` lets one thread compute it together with others, by `student_backend`.
`service` holds what they share; `server_metrics` counts what happens.
"""
