"""The local system: all servers and services of an installation, started, watched and ended together.

    services.py    the list: what there is, how it is started, where it answers, what it waits for
    supervisor.py  starts them in order, restarts what ends, ends everything
    record.py      HOME/run: who supervises this home, what runs, on which ports; one supervisor a home
    processes.py   processes by mark, so that nothing is left running; the watchdog that outlives a supervisor
    prefect_api.py what runs when, asked of Prefect's server without importing Prefect
    report.py      what `robustidps status` shows

Everything binds loopback. Prefect's side (deployments, the worker, the app that checks Hosts) is in `robustidps.flows`.
"""
