"""The database's history: one file per change of app.core.tables, run by app.core.migrating when a service starts.

A new one is drafted by what the tables now say beside what the migrations make:

    .venv/bin/python -m migrations "scans have a colour"
"""
