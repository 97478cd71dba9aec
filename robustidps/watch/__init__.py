"""The registry's watcher: notices what people change in MLflow, within a second by webhook and by looking regularly.

    service.py    the foreground service: one worker that looks, an HTTP page for webhooks and health
    webhook.py    the secret, what makes a webhook credible, and how ours is made known to an MLflow server
    periodic.py   further work at intervals; other parts of RobustIDPS join it here

What a webhook says is a hint and nothing more: it makes the worker look at once, and what it then finds in MLflow is
answered by `robustidps.registry.reconciler`.
"""
