"""Palyra: a local-first gateway for large language models whose journal is the system."""

from __future__ import annotations

__version__ = "0.1.0"
