"""What a version in production meets: windows of traffic, beside what it was trained on.

    window.py     which flows a window holds: captures or Parquet, by time, read a chunk at a time
    figures.py    what a window is like, over all of its flows: PSI, predictions, alerts, accuracy by returned labels
    alarm.py      pure: when a window has drifted, when that is an alarm, what a review silences
    reviews.py    what a person made of a window; signed, in the ledger
    windows.py    the windows on record, and `examine`, which carries one from traffic to record
    reports.py    a window's pages; Evidently's workspace    index.py      one page over all models
    serving.py    those pages over HTTP, from an origin of their own
    labels.py     labels that came back: which may be trained on, and how

Nothing here moves a version. An alarm is a record in the ledger and, through the `monitor` flow, an event; a version
that is trained because of one is judged by the same rules as any other.
"""
