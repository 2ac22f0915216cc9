"""The service from outside, for programs: `Client("http://127.0.0.1:8360")`.

    model, bundle = client.upload("model.pt", "model"), client.upload("bundle.zip", "bundle")
    scan = client.wait(client.request_scan(model.sha256, bundle.sha256, repair=True).id)
    client.download(scan.id, "torchscript", "repaired.pt")

What may succeed later is asked again, with longer and longer pauses; everything else is an ApiError with advice. To
send something twice is safe: files are known by their hash, and a request for a scan carries an Idempotency-Key.
"""

from app.client.answers import ApiError as ApiError
from app.client.answers import Artifact as Artifact
from app.client.answers import Event as Event
from app.client.answers import Scan as Scan
from app.client.client import Client as Client
