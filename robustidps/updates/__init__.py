"""Signed model updates: one organisation publishes versions, any number of installations take them safely.

The remote registry is a TUF repository (The Update Framework, theupdateframework.io): static files on any web server or
bucket, which nobody has to trust. What an installation trusts is the root that was pinned by hand.

    naming.py      what targets are called, and the summary that rides with each
    archive.py     a bundle as one deterministic tar, and the strict reader of one
    keys.py        a publisher's keys                staging.py     what waits for signatures, and its publication
    publishing.py  what a publisher does to the repository
    fetching.py    downloads: limits, resuming       client.py      the pinned root, mirrors, offers
    quarantine.py  an archive becomes a bundle that may be looked at, or is refused
    evidence.py    what a site can measure by itself offers.py      which offers are updates here
    installing.py  one update, from check to record  recording.py   an update and our ledger
    working.py     whose its working folder is       api.py         `ModelRegistry`'s methods
"""
