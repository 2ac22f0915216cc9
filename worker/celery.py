"""The Celery application of the workers: `celery --app worker.celery worker --queues cpu`.

Importing this needs no environment and no server, and loads no torch.
"""

from app.core.queue import make_celery
from app.core.settings import Settings

app = make_celery(Settings().broker)
app.conf.include = ["worker.tasks"]
