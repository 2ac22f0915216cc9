"""The program inside the fence: job directory in, result directory out, tasks and progress over pipes of their own.

It knows files, not databases, and no order: it does the task it is handed (app/core/plan.py says which comes next). A
task whose results are there already is done at once, so a killed engine loses at most one block of labels.
"""
