"""A trained student behind HTTP.

The way of a request: `connections` bounds what a client may hold open, `guard`
refuses what may not come in, `app` reads it, `batching` lets one thread
compute it beside others, `metrics` counts it. `server` starts and stops all
this; `command` is `dss-jax serve`.
"""
