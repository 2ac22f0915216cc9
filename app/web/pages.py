"""The pages for people: `/`, `/scans/{id}`, `/scans/{id}/report`, and the few files that they load.

A page is a shell and holds nobody's data: its script asks the API for that, with an API key where one is needed. What
came from strangers (names, problems) is therefore never a part of a page; the script puts it in as text, and the policy
forbids it anything else.
"""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from fastapi import APIRouter, Request, Response
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from app import actions
from app.api.delivery import has_already
from app.api.deps import ServiceDep
from app.api.problems import NOT_FOUND
from app.core.findings import Verdict
from app.core.progress import STAGES
from app.core.report.explanations import CAVEATS, REASONS, SPARED, VERDICTS

router = APIRouter(include_in_schema=False)

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "frame-src": "'self' blob:",
    "base-uri": "'none'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "require-trusted-types-for": "'script'",
    "trusted-types": "'none'",
}
STATIC = {  # name -> package, file in it, media type
    "report.css": ("app.core.report", "style.css", "text/css; charset=utf-8"),  # the report's look is ours too
    "page.css": ("app.web", "static/page.css", "text/css; charset=utf-8"),
    "page.js": ("app.web", "static/page.js", "text/javascript; charset=utf-8"),
    "icon.svg": ("app.web", "static/icon.svg", "image/svg+xml"),
}
TONES = {Verdict.BACKDOORED: "alarm", Verdict.NO_BACKDOOR_FOUND: "calm", Verdict.INCONCLUSIVE: "doubt"}
MARKS = {Verdict.BACKDOORED: "▲", Verdict.NO_BACKDOOR_FOUND: "●", Verdict.INCONCLUSIVE: "◆"}
READING = ["GET", "HEAD"]


@router.api_route("/", methods=READING)
def home(request: Request, service: ServiceDep) -> Response:
    """Start a scan, find earlier ones."""
    return _page(request, service, "home.html")


@router.api_route("/scans/{scan_id}", methods=READING)
def scan(request: Request, service: ServiceDep, scan_id: str) -> Response:
    """Watch one scan, and see what came of it."""
    return _page(request, service, "scan.html", _known(scan_id))


@router.api_route("/scans/{scan_id}/report", methods=READING)
def report(request: Request, service: ServiceDep, scan_id: str) -> Response:
    """Read the report, in a frame without any rights.

    With an API key the script has to fetch it, and the frame is then bound by this page's policy: hence the hash.
    """
    style = f"'self' 'sha256-{base64.b64encode(hashlib.sha256(_static('report.css')).digest()).decode()}'"
    return _page(request, service, "report.html", _known(scan_id), POLICY | {"style-src": style})


@router.api_route("/static/{name}", methods=READING)
def static(request: Request, name: str) -> Response:
    """One of the files that pages load."""
    if name not in STATIC:
        raise NOT_FOUND
    return _answer(request, _static(name), STATIC[name][2], {})


def _known(scan_id: str) -> str:
    """The id as the commands on the page show it; a stranger's words never get into a command."""
    return scan_id if actions.SCAN_ID.fullmatch(scan_id) else "SCAN_ID"


def _page(
    request: Request, service: ServiceDep, template: str, scan_id: str = "", policy: dict[str, str] = POLICY
) -> Response:
    page = _templates().get_template(template)
    html = page.render(base=str(request.base_url), scan_id=scan_id, settings=service.settings)
    headers = {"Content-Security-Policy": "; ".join(" ".join(directive) for directive in policy.items())}
    return _answer(request, html.encode(), "text/html; charset=utf-8", headers)


def _answer(request: Request, content: bytes, media_type: str, headers: dict[str, str]) -> Response:
    """Kept by the browser and asked for again each time, so that an upgrade is seen at once."""
    etag = f'"{hashlib.sha256(content).hexdigest()}"'
    headers = {"ETag": etag, "Cache-Control": "no-cache", **headers}
    if has_already(request.headers, etag):
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD":
        return Response(headers=headers | {"Content-Length": str(len(content))}, media_type=media_type)
    return Response(content, headers=headers, media_type=media_type)


@cache
def _static(name: str) -> bytes:
    package, file, _ = STATIC[name]
    return files(package).joinpath(file).read_bytes()


@cache
def _templates() -> Environment:
    loader = FunctionLoader(lambda name: files(__package__).joinpath("templates", name).read_text("utf-8"))
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["prose"] = _prose
    environment.globals |= {
        "verdicts": [
            {"name": name, "tone": TONES[name], "mark": MARKS[name], "entry": VERDICTS[name]} for name in Verdict
        ],
        "reasons": REASONS,
        "caveats": CAVEATS,
        "spared": SPARED,
        "stages": STAGES,
    }
    return environment


def _prose(text: str) -> Markup:
    """Our own sentences, with `typed words` set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
