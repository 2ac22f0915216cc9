"""Queries: what a lease is worth, which job is next, and that a tenant sees only what is its own."""

import time
from collections.abc import Sequence

import pytest

from app.core.database import Database
from app.core.lifecycle import JobState, ScanStatus
from app.core.plan import JobKind, Task
from app.core.progress import Doing, Work
from app.core.repository import access, artifacts, jobs, scans
from app.core.repository.jobs import Lease
from app.core.tables import DEFAULT_TENANT, Scan, Tenant, Worker
from tests import factories
from tests.threads import at_once

# Claims


def claimed_scan(database: Database, prefer: str | None = None, queues: Sequence[str] = ("cpu",)) -> str | None:
    with database.writing() as session:
        job = jobs.claim(session, queues, "worker", 60, prefer)
        return job.scan_id if job else None


def test_each_of_fifty_jobs_goes_to_one_of_eight_workers_that_claim_at_once(database: Database) -> None:
    with database.writing() as session:
        for scan in [factories.scan(session) for _ in range(5)]:
            for label in range(10):
                factories.job(session, scan, Task(JobKind.INVERT, (label,)))

    def work(worker: str) -> list[str]:
        taken = []
        while True:
            with database.writing() as session:
                job = jobs.claim(session, ["cpu"], worker, 60)
            if job is None:
                return taken
            assert (job.state, job.lease_owner, job.lease_token) == (JobState.RUNNING, worker, 1)
            taken.append(job.id)

    claims = [job for taken in at_once(*[lambda n=n: work(f"worker {n}") for n in range(8)]) for job in taken]
    assert len(claims) == len(set(claims)) == 50


@pytest.mark.parametrize("database", [pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_a_worker_does_not_wait_for_another_that_is_claiming(database: Database) -> None:
    with database.writing() as session:
        ids = [factories.begun(session).id for _ in range(2)]
    with database.writing() as session:
        assert factories.taken(session).scan_id == ids[0]
        assert claimed_scan(database) == ids[1]
        assert claimed_scan(database) is None


def test_the_scan_whose_engine_is_warm_goes_first_then_priority_then_age(database: Database) -> None:
    with database.writing() as session:
        older, newer, urgent, warm = (factories.begun(session, priority=priority).id for priority in (0, 0, 1, -1))
    assert [claimed_scan(database, prefer=warm) for _ in range(5)] == [warm, urgent, older, newer, None]


def test_the_blocks_of_a_scan_are_claimed_in_the_order_they_were_made(database: Database) -> None:
    with database.writing() as session:
        scan = factories.scan(session)
        for label in range(10):
            factories.job(session, scan, Task(JobKind.INVERT, (label,)))
    with database.writing() as session:
        assert [factories.taken(session).labels for _ in range(10)] == [[label] for label in range(10)]
        assert [job.labels for job in factories.jobs_of(session, scan)] == [[label] for label in range(10)]


def test_a_worker_is_given_jobs_of_its_queues_only(database: Database) -> None:
    with database.writing() as session:
        factories.job(session, factories.scan(session), Task(JobKind.PREPARE), "gpu")
        assert jobs.ready_queues(session) == ["gpu"]
    assert claimed_scan(database) is None
    assert claimed_scan(database, queues=("cpu", "gpu")) is not None


def test_jobs_that_need_no_torch_stay_on_the_cpu(database: Database) -> None:
    with database.writing() as session:
        scan = factories.scan(session)
        queues = {kind: factories.job(session, scan, Task(kind), "gpu").queue for kind in JobKind}
    assert {kind for kind, queue in queues.items() if queue == "cpu"} == {"inspect", "select", "decide", "report"}


def test_a_job_is_made_once(database: Database) -> None:
    with database.writing() as session:
        scan = factories.begun(session)
        assert not jobs.add(session, scan, Task(JobKind.INSPECT), "cpu")
        assert jobs.add(session, factories.scan(session), Task(JobKind.INSPECT), "cpu"), "of another scan"
        assert jobs.counts(session) == [("cpu", "ready", 2)]


def test_a_round_has_jobs_of_its_own(database: Database) -> None:
    tasks = [Task(JobKind.DECIDE), Task(JobKind.DECIDE, round=1), Task(JobKind.CONFIRM, (3, 4), 1)]
    with database.writing() as session:
        scan = factories.scan(session)
        for task in tasks:
            assert jobs.add(session, scan, task, "cpu") and not jobs.add(session, scan, task, "cpu")
        assert [jobs.task_of(job) for job in factories.jobs_of(session, scan)] == tasks


# Leases


def test_the_newest_token_holds_the_job_and_an_older_one_writes_nothing(database: Database) -> None:
    with database.writing() as session:
        factories.begun(session)
        first = factories.taken(session)
        lost = Lease(first.id, first.lease_token)
        first.state = JobState.READY
    with database.writing() as session:
        second = factories.taken(session)
        lease = Lease(second.id, second.lease_token)
    assert lease == Lease(lost.job_id, lost.token + 1)
    with database.writing() as session:
        assert not jobs.renew(session, lost, 60)
        assert not jobs.report_work(session, lost, Work(Doing.LOAD))
        assert jobs.held(session, lost) is None
    with database.writing() as session:
        assert jobs.renew(session, lease, 60)
        assert jobs.report_work(session, lease, Work(Doing.STUDENTS))
        held = jobs.held(session, lease)
        assert held is not None and held.work == Work(Doing.STUDENTS).to_json()


def test_nobody_holds_a_job_that_has_ended(database: Database) -> None:
    with database.writing() as session:
        factories.begun(session)
        job = factories.taken(session)
        job.state = JobState.DONE
        session.flush()
        lease = Lease(job.id, job.lease_token)
        assert not jobs.renew(session, lease, 60)
        assert jobs.held(session, lease) is None


def test_a_lease_runs_out_unless_it_is_renewed(database: Database) -> None:
    with database.writing() as session:
        factories.begun(session)
        factories.begun(session)
        kept, lost = (factories.taken(session, lease_seconds=0.01) for _ in range(2))
        jobs.renew(session, Lease(kept.id, kept.lease_token), 60)
    time.sleep(0.05)
    with database.writing() as session:
        assert [job.id for job in jobs.expired(session)] == [lost.id]


@pytest.mark.parametrize("database", [pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True)
def test_a_job_whose_result_is_being_recorded_is_not_taken_back(database: Database) -> None:
    with database.writing() as session:
        factories.begun(session)
        job = factories.taken(session, lease_seconds=0)
    with database.writing() as recording:
        held = jobs.held(recording, Lease(job.id, job.lease_token))
        assert held is not None
        with database.writing() as sweeping:
            assert jobs.expired(sweeping) == []
        held.state = JobState.DONE


def test_the_longest_wait_is_that_of_the_oldest_ready_job(database: Database) -> None:
    with database.writing() as session:
        assert jobs.oldest_ready_seconds(session) == 0
        factories.begun(session)
        scan = factories.begun(session)
        (job,) = factories.jobs_of(session, scan)
        factories.aged(session, job, "created_at", 100)
        assert jobs.oldest_ready_seconds(session) == pytest.approx(100, abs=5)


def test_progress_says_how_far_each_job_is_and_outputs_what_a_finished_one_left(database: Database) -> None:
    with database.writing() as session:
        scan = factories.begun(session)
        job = factories.taken(session)
        work = Work(Doing.UNDERSTAND, seconds_left=3.5, seconds_worked=7.0)
        jobs.report_work(session, Lease(job.id, job.lease_token), work)
        job.outputs = {"a.json": {"size": 1}}
        session.flush()
        (far,) = jobs.progress(session, scan.id)
        assert (far.kind, far.state, far.work) == (JobKind.INSPECT, JobState.RUNNING, work)
        assert far.seconds == 7.0
        assert jobs.outputs(session, scan.id, JobKind.INSPECT) == {}
        job.state = JobState.DONE
        session.flush()
        assert jobs.outputs(session, scan.id, JobKind.INSPECT) == {"a.json": {"size": 1}}
        assert jobs.progress(session, factories.scan(session).id) == []


# Scans


def test_pages_follow_each_other_from_the_newest_scan_to_the_oldest(database: Database) -> None:
    with database.writing() as session:
        ids = [factories.scan(session).id for _ in range(7)]
    with database.reading() as session:
        seen: list[str] = []
        while page := scans.page(session, DEFAULT_TENANT, 3, before=seen[-1] if seen else None):
            assert len(page) <= 3
            seen += [scan.id for scan in page]
    assert seen == ids[::-1]


def test_a_page_shows_only_scans_whose_columns_equal_what_is_asked_for(database: Database) -> None:
    with database.writing() as session:
        flagged = factories.scan(session, status=ScanStatus.FINISHED, verdict="backdoored")
        factories.scan(session, status=ScanStatus.FINISHED, verdict="inconclusive")
        factories.scan(session)
        found = scans.page(session, DEFAULT_TENANT, 9, status="finished", verdict="backdoored", model_sha256=None)
    assert [scan.id for scan in found] == [flagged.id]


def test_the_newest_finished_scan_answers_for_an_equal_request(database: Database) -> None:
    with database.writing() as session:
        _, second = (factories.scan(session, request_digest="e", status=ScanStatus.FINISHED) for _ in range(2))
        factories.scan(session, request_digest="e", status=ScanStatus.FINISHED, engine_version="another")
        for status in set(ScanStatus) - {ScanStatus.FINISHED}:
            factories.scan(session, request_digest="e", status=status)
        found = scans.finished_like(session, DEFAULT_TENANT, "e", "1")
        assert found is not None and found.id == second.id
        assert scans.finished_like(session, DEFAULT_TENANT, "f", "1") is None


def test_a_queued_scan_knows_how_many_are_served_before_it(database: Database) -> None:
    with database.writing() as session:
        factories.scan(session, status=ScanStatus.FINISHED)
        older, scan, newer = (factories.scan(session) for _ in range(3))
        urgent = factories.scan(session, priority=1)
        places = [scans.queued_before(session, row) for row in (urgent, older, scan, newer)]
    assert places == [0, 1, 2, 3]


def test_a_scan_takes_all_that_belongs_to_it_along(database: Database) -> None:
    with database.writing() as session:
        scan = factories.begun(session)
        scans.record_finding(session, scan, factories.finding())
        access.remember(session, DEFAULT_TENANT, "key", "digest", scan.id)
    with database.writing() as session:
        row = scans.find(session, DEFAULT_TENANT, scan.id)
        assert row is not None
        scans.delete(session, row)
    with database.reading() as session:
        assert (
            factories.jobs_of(session, scan)
            == scans.findings(session, scan)
            == scans.events_after(session, scan, 0)
            == []
        )
        assert access.remembered(session, DEFAULT_TENANT, "key") is None


def test_a_later_finding_of_a_label_takes_the_place_of_the_first(database: Database) -> None:
    with database.writing() as session:
        scan = factories.scan(session)
        assert scans.record_finding(session, scan, factories.finding(1, norm=0.1))
        assert scans.record_finding(session, scan, factories.finding(0, norm=0.2))
        assert not scans.record_finding(session, scan, factories.finding(1, norm=0.3))
    with database.reading() as session:
        norms = [(row.label, row.finding["families"][0]["norm"]) for row in scans.findings(session, scan)]
    assert norms == [(0, 0.2), (1, 0.3)]


def test_events_are_numbered_without_gaps_however_many_tell_them_at_once(database: Database) -> None:
    with database.writing() as session:
        scan = factories.scan(session)

    def tell(worker: int) -> None:
        for turn in range(5):
            with database.writing() as session:
                scans.tell(session, scan.id, "label", worker=worker, turn=turn, nothing=None)

    at_once(*[lambda n=n: tell(n) for n in range(8)])
    with database.reading() as session:
        events = scans.events_after(session, scan, 0)
        assert [event.number for event in events] == list(range(1, 41))
        assert {tuple(event.data) for event in events} == {("worker", "turn")}
        assert [event.number for event in scans.events_after(session, scan, 38)] == [39, 40]
        assert [event.number for event in scans.events_after(session, scan, 10, limit=2)] == [11, 12]


# Sweeps


def test_an_ended_scan_expires_when_its_retention_is_over(database: Database) -> None:
    with database.writing() as session:
        old, recent, unfinished = (factories.scan(session, status=ScanStatus.FINISHED) for _ in range(3))
        factories.aged(session, old, "finished_at", 3 * 86_400)
        factories.aged(session, recent, "finished_at", 86_400)
        factories.aged(session, unfinished, "finished_at", 3 * 86_400)
        unfinished.status = ScanStatus.RUNNING
        session.flush()
        assert [scan.id for scan in scans.expired(session, 2)] == [old.id]


def test_an_open_scan_with_nothing_left_to_do_is_found(database: Database) -> None:
    with database.writing() as session:
        missed, waiting, working = (factories.begun(session) for _ in range(3))
        factories.scan(session, status=ScanStatus.FAILED)
        for scan, state in ((missed, JobState.DONE), (waiting, JobState.READY), (working, JobState.RUNNING)):
            (job,) = factories.jobs_of(session, scan)
            job.state = state
        session.flush()
        assert scans.without_open_jobs(session) == [missed.id]


def test_an_artifact_expires_unless_it_is_recent_in_use_or_made_by_a_scan(database: Database) -> None:
    with database.writing() as session:
        old, used, made, _ = (factories.artifact(session) for _ in range(4))
        factories.artifact(session, factories.tenant(session), sha256=used.sha256)  # in use is theirs, not this
        factories.scan(session, bundle_sha256=used.sha256)
        factories.scan(session, model_sha256=old.sha256, status=ScanStatus.FINISHED)
        made.scan_id = "a scan"
        for artifact in (old, used, made):
            factories.aged(session, artifact, "created_at", 3 * 86_400)
        assert [artifact.sha256 for artifact in artifacts.expired(session, 2)] == [old.sha256]


def test_stored_bytes_are_those_of_all_artifacts_and_results(database: Database) -> None:
    with database.writing() as session:
        assert artifacts.stored_bytes(session) == 0
        factories.artifact(session, size=3 * 10**9)
        factories.artifact(session, factories.tenant(session), size=20)
        factories.scan(session, output_bytes=1)
        assert artifacts.stored_bytes(session) == 3 * 10**9 + 21


# Tenants


def test_a_tenant_finds_nothing_of_another(database: Database) -> None:
    with database.writing() as session:
        theirs = factories.begun(session, request_digest="e", status=ScanStatus.FINISHED, model_sha256="f")
        open_scan = factories.scan(session, model_sha256="f")
        made = factories.artifact(session, sha256="f", scan_id=theirs.id)
        access.remember(session, DEFAULT_TENANT, "key", "digest", theirs.id)
        stranger = factories.tenant(session)

        def what_is_found(tenant: str) -> list[object]:
            return [
                scans.find(session, tenant, theirs.id),
                scans.finished_like(session, tenant, "e", "1"),
                scans.page(session, tenant, 9, model_sha256="f"),
                scans.using_artifact(session, tenant, "f"),
                artifacts.find(session, tenant, "f"),
                artifacts.keep(session, tenant, "f"),
                access.remembered(session, tenant, "key"),
            ]

        assert not any(what_is_found(stranger))
        assert all(what_is_found(DEFAULT_TENANT))
        assert scans.using_artifact(session, DEFAULT_TENANT, "f") == open_scan.id
        assert artifacts.lock_made_by(session, theirs) == [made]


def test_weights_of_an_equally_named_scan_of_another_tenant_are_not_taken_for_ones_own(database: Database) -> None:
    with database.writing() as session:
        scan = factories.scan(session)
        factories.artifact(session, factories.tenant(session), scan_id=scan.id)
        assert artifacts.lock_made_by(session, scan) == []


def test_what_happens_to_a_scan_is_told_to_nobody_who_asks_about_another(database: Database) -> None:
    with database.writing() as session:
        mine = factories.scan(session)
        theirs = factories.begun(session, factories.tenant(session))
        scans.record_finding(session, theirs, factories.finding())
        assert (
            scans.events_after(session, mine, 0)
            == scans.findings(session, mine)
            == factories.jobs_of(session, mine)
            == []
        )
        rows = (
            *scans.events_after(session, theirs, 0),
            *scans.findings(session, theirs),
            *factories.jobs_of(session, theirs),
        )
        assert [row.tenant_id for row in rows] == [theirs.tenant_id] * 3


def test_a_tenant_is_made_once(database: Database) -> None:
    with database.writing() as session:
        access.ensure_tenant(session, "new")
        access.ensure_tenant(session, "new")
        assert session.get(Tenant, "new") is not None


# Keys


def test_a_key_is_found_by_its_secret_until_it_is_revoked(database: Database) -> None:
    with database.writing() as session:
        key, secret = access.create_key(session, "new tenant", "laptop")
        other, _ = access.create_key(session, DEFAULT_TENANT, "ci")
        access.touch_key(session, key.id)
    with database.writing() as session:
        found = access.key_for(session, secret)
        assert found is not None and (found.id, found.tenant_id) == (key.id, "new tenant")
        assert found.last_used_at == pytest.approx(found.created_at, abs=5)
        assert access.key_for(session, secret + "x") is None
        assert [row.id for row in access.keys(session)] == [key.id, other.id]
        assert access.usable_keys(session) == 2
        assert access.revoke_key(session, key.id)
        assert access.key_for(session, secret) is None
        assert not access.revoke_key(session, key.id)
        assert access.usable_keys(session) == 1


def test_the_secret_of_a_key_is_kept_nowhere(database: Database) -> None:
    with database.writing() as session:
        key, secret = access.create_key(session, DEFAULT_TENANT, "laptop")
        assert secret not in {str(getattr(key, column.key)) for column in key.__table__.columns}


def test_an_idempotency_key_is_remembered_for_a_day_and_may_be_used_again_after(database: Database) -> None:
    with database.writing() as session:
        first, second = factories.scan(session), factories.scan(session)
        access.remember(session, DEFAULT_TENANT, "key", "digest", first.id)
        session.flush()
        row = access.remembered(session, DEFAULT_TENANT, "key")
        assert row is not None and (row.scan_id, row.body_digest) == (first.id, "digest")
        factories.aged(session, row, "created_at", 24 * 3600 + 1)
    with database.writing() as session:
        assert access.remembered(session, DEFAULT_TENANT, "key") is None
        access.remember(session, DEFAULT_TENANT, "key", "another", second.id)
    with database.writing() as session:
        row = access.remembered(session, DEFAULT_TENANT, "key")
        assert row is not None and (row.scan_id, row.body_digest) == (second.id, "another")
        factories.aged(session, row, "created_at", 24 * 3600 + 1)
        access.remember(session, DEFAULT_TENANT, "recent", "digest", second.id)
        session.flush()
        access.forget_old_keys(session)
        session.expire_all()
        assert access.remembered(session, DEFAULT_TENANT, "key") is None
        assert access.remembered(session, DEFAULT_TENANT, "recent") is not None


def test_of_two_requests_that_come_at_once_under_one_idempotency_key_the_second_finds_the_first(
    database: Database,
) -> None:
    def ask() -> str:
        with database.writing() as session:
            if (known := access.remembered(session, DEFAULT_TENANT, "key")) is not None:
                return known.scan_id
            scan: Scan = factories.scan(session)
            access.remember(session, DEFAULT_TENANT, "key", "digest", scan.id)
            return scan.id

    assert len(set(at_once(*[ask] * 4))) == 1


# Workers


def test_a_worker_is_known_while_it_is_seen(database: Database) -> None:
    first, second = (
        Worker(id=name, queues="cpu", host="here", process=1, device="cpu", version="1") for name in ("1", "2")
    )
    with database.writing() as session:
        access.see_worker(session, first)
        access.see_worker(session, second)
    with database.writing() as session:
        factories.aged(session, first, "seen_at", 100)
        assert [worker.id for worker in access.workers(session, seen_within=50)] == ["2"]
        access.see_worker(session, first)
        assert [worker.id for worker in access.workers(session, seen_within=50)] == ["1", "2"]
        access.forget_worker(session, "2")
        assert [worker.id for worker in access.workers(session, seen_within=50)] == ["1"]


def test_a_worker_that_was_forgotten_and_still_lives_is_known_again(database: Database) -> None:
    worker = Worker(id="1", queues="cpu", host="here", process=1, device="cpu", version="1")
    with database.writing() as session:
        access.see_worker(session, worker)
    with database.writing() as session:
        factories.aged(session, worker, "seen_at", 100)
        access.forget_lost_workers(session, 50)
        assert access.workers(session, seen_within=1000) == []
    with database.writing() as session:
        access.see_worker(session, worker)
    with database.reading() as session:
        assert [worker.id for worker in access.workers(session, seen_within=50)] == ["1"]
