"""A TorchScript archive, understood without torch: walked, unpickled by a machine of ours, its code parsed.

walk.py       the zip file                  -> Walked: where each member lies, every stated value checked
pickles.py    data.pkl, constants.pkl       -> values: modules, tensors as references to records
syntax.py     code/**.py                    -> program: classes and functions of the Python subset
operators.py  every operator of the program -> allowed, unknown or forbidden
gate.py       all of it, in this order      -> Understood, or a Refusal with member, line, rule and advice
surgery.py    records that have changed     -> the archive with these in their places, all else as it was
"""
