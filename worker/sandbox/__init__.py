"""The walls around an engine, which runs what strangers uploaded.

fence.py     bubblewrap: what it can see; seccomp.py: what it can ask of the kernel; limits.py: what it cannot lift
usage.py     what it takes of the machine, for who watches it
cell.py      the folder it works in, and how what it leaves is taken out; removal.py: how the rest goes
results.py   what is believed of what it leaves; events.py: of what it says
probes.py    all that a model might try, tried by ourselves
"""
