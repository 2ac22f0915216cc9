"""The Celery application of the workers: `celery --app worker.celery worker --queues cpu`.

Importing this needs no environment and no server, and loads no torch.
"""

from app.core.queue import make_celery
from app.core.settings import Settings

_broker = Settings().broker_url

app = make_celery(_broker.get_secret_value() if _broker else None)
app.conf.include = ["worker.tasks"]
