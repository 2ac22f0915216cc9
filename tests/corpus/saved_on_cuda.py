"""An archive as a machine with a GPU would have saved it, made on one without."""

from pathlib import Path

import torch

PICKLED = (b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")  # a storage's device, as pickles hold strings
PRINTED = (b'torch.device("cpu")', b'torch.device("cuda:0")')


def as_if_saved_on_cuda(path: Path) -> None:
    """Write the archive afresh, every tensor saved on `cuda:0` and every device literal naming it.

    torch's own writer lays the records out; it deflates none. The debug records, which count the code's bytes, are left
    out.
    """
    reader = torch._C.PyTorchFileReader(str(path))
    records = {name: reader.get_record(name) for name in reader.get_all_records() if not name.endswith(".debug_pkl")}
    for name in records.keys() & {"version", "byteorder", ".data/serialization_id"}:
        del records[name]  # the writer adds its own
    del reader
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, record in records.items():
        if name.endswith(".pkl"):
            record = record.replace(*PICKLED)
        elif name.startswith("code/"):
            record = record.replace(*PRINTED)
        writer.write_record(name, record, len(record))
    writer.write_end_of_file()
