"""The SQLite that this process would write with; apart, because asking for it must import nothing heavy."""

from __future__ import annotations

import sqlite3

SQLITE_VERSION = sqlite3.sqlite_version
