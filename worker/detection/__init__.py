"""The science: tensors and numbers in, dataclasses out. It knows no database, store, queue, clock or global seed.

Equation numbers are those of Zheng, Hua and Zhang, "Detecting and Mitigating Backdoor Attacks with Dynamic and
Invisible Triggers" (ICONIP 2022), called "the paper" throughout. Read inversion.py and families/ first, then
outliers.py, students.py, step_out.py, verdict.py and repairing/.
"""
