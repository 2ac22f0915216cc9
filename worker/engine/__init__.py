"""The program inside the fence: job directory in, result directory out, progress over its own pipe.

It knows files, not databases. `python -m worker.engine JOBDIR` works through everything the job asks for and that the
result directory does not hold yet, so a killed engine, started again, loses at most one block of labels.
"""
