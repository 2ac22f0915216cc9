"""The first task: learn how the suspect and the clean images fit together, and train what every search begins with."""

from dataclasses import replace

from safetensors.torch import save
from torch import nn

from app.core.findings import Caveat, Preparation
from app.core.jobs import write_whole
from app.core.plan import blocks_of
from app.core.progress import Doing
from worker.detection.clean import sample
from worker.detection.families.dynamic import pretrain_generator
from worker.detection.students import train_students
from worker.engine.effort import after_preparing, training, unplanned
from worker.engine.search import check_labels
from worker.engine.trying import fitted_into_memory, try_searches
from worker.engine.understanding import understand
from worker.engine.workbench import Workbench

MOST_LEARNED, OF_EACH_LEARNED = 2_000, 20  # images, or of each label where there are many, that students learn from
USEFUL_AGREEMENT = 0.7  # students that answer fewer images as the suspect does say little of its labels


def prepare(bench: Workbench) -> None:
    """Write preparation.json and, unless a reason already blocks the search, what it begins with; raises Refusal."""
    known, directory, config = bench.directory.read_preparation(), bench.directory, bench.job.config
    if known is not None and (known.reasons or directory.start.exists()):
        _announce(bench, known)
        return
    bench.begin("prepare")
    telling = bench.telling
    _ = bench.suspect, bench.images
    telling.plan([unplanned(Doing.UNDERSTAND)])
    telling.turn()
    preparation = understand(bench)
    directory.write_preparation(preparation)
    _announce(bench, preparation)
    if not preparation.reasons and not bench.job.check:
        if bench.job.repair_label is not None:
            check_labels(bench, [bench.job.repair_label])  # before anything is trained
        preparation = _plan(bench, preparation)
        directory.write_preparation(preparation)
        if config.students:
            bench.begin("students")
            directory.write_preparation(_with_students(bench, preparation))
        bench.begin("pretrain")
        telling.turn()
        start = pretrain_generator(bench.clean, bench.perceptual, config.inversion, config.seed, telling.step)
        write_whole(directory.start, lambda path: path.write_bytes(save(start.state_dict())))


def _plan(bench: Workbench, preparation: Preparation) -> Preparation:
    """Try what a search takes, and say what is left of this task and what comes after it; what fits into memory."""
    job, telling = bench.job, bench.telling
    searched = range(preparation.num_labels) if job.repair_label is None else [job.repair_label]
    telling.plan([unplanned(Doing.TRY)])
    telling.turn()
    planned = len(blocks_of(preparation, searched, job.config)[0])
    bench.preparation = preparation = fitted_into_memory(bench, preparation, planned)
    cut, sizes = blocks_of(preparation, searched, job.config), bench.sizes(job.config.students)
    try_searches(bench, sizes, len(cut[0]))
    telling.plan(training(job.config, sizes), after_preparing(job, sizes, preparation.num_labels, len(cut[0])))
    return preparation


def _with_students(bench: Workbench, preparation: Preparation) -> Preparation:
    """Train the reference students, and leave them if they learned enough to be asked."""
    config, directory = bench.job.config, bench.directory
    seeds = range(config.seed, config.seed + config.students)
    picked = sample(bench.labels_N, max(MOST_LEARNED, OF_EACH_LEARNED * preparation.num_labels))
    students, agreement = train_students(bench.classifier, bench.images.subset(picked), seeds, bench.telling.follow)
    if agreement < USEFUL_AGREEMENT:
        caveats = (*preparation.caveats, Caveat.WEAK_STUDENTS)
        return replace(preparation, students_agreement=agreement, caveats=caveats)
    state = nn.ModuleList(students).state_dict()
    write_whole(directory.students, lambda path: path.write_bytes(save(state)))
    return replace(preparation, students_agreement=agreement)


def _announce(bench: Workbench, preparation: Preparation) -> None:
    bench.emit("prepared", labels=preparation.num_labels, names=preparation.label_names, images=preparation.images)
