"""A TorchScript archive, understood without torch: walked, unpickled by a machine of ours, its code parsed.

archive/      the zip file                    -> Walked: where each member lies, every stated value checked
pickles/      data.pkl, constants.pkl         -> values: modules, tensors as references to records
code/         code/**.py                      -> program: classes and functions of the Python subset, operators allowed
agreement.py  whether pickles and code say the same of every module
gate.py       all of it, in this order        -> Understood, or a Refusal with member, line, rule and advice
inventory.py  what was understood, in numbers -> the structure that a report shows
surgery.py    records that have changed       -> the archive with these in their places, all else as it was
repack.py     what was understood             -> a fresh archive, printed and pickled by us
"""
