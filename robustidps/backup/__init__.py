"""An installation as one file: saved from wherever it lies, restored to wherever the settings point.

    archive.py     the file: a tar whose every member is hashed in a signed manifest; nothing is written before all fits
    mlflow.py      MLflow's rows: read in one transaction, written in one, artefact addresses rewritten
    saving.py      `save`: state, MLflow, artefacts, held-out traffic, configurations, public key (and the private one
                   only where it is asked for)
    restoring.py   `restore`: into an empty installation, all or nothing; SQLite and files, or PostgreSQL and S3

Databases are saved as rows, not as files, so that a small installation's backup can be restored into a large one.
"""

from __future__ import annotations

from robustidps.backup.archive import Manifest, read_manifest
from robustidps.backup.restoring import Restored, restore
from robustidps.backup.saving import Saved, save

__all__ = ["Manifest", "Restored", "Saved", "read_manifest", "restore", "save"]
