"""Repairs: each recipe is a module, and knows no more than the case it is given.

base.py       a case, what a recipe answers, and what all of them train with
paper.py      the paper's: fine-tuning on the original labels
standard.py   inversion and unlearning in rounds, by matching the suspect's scores
"""
