"""The papers' tables and figures, regenerated: one folder for each paper."""
