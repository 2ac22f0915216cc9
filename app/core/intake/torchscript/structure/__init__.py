"""What the code of an understood archive does with the image: code that a search for triggers cannot see through.

rules.py       what is looked for                       -> rules, and findings with member, line and words
taints.py      what a value depends on                  -> bits: sources, and marks that say where it became suspicious
values.py      values that are known in part            -> constants, tensors of unknown numbers, lists, objects
heap.py        what several names share, and branches   -> writes that only add; two values as one
shapes.py      which dimension depends on the batch     -> the dimensions of an operator's result
arithmetic.py  numbers, texts and lists that are known  -> what the jit would make of them
knowledge.py   operators of torch, by what they do      -> tables of names
operators.py   one operator                             -> its result, with marks
running.py     statements, calls and loops              -> forward, from the image to the scores
unused.py      tensors that nobody reads                -> notes
examine.py     all of it                                -> the findings of an archive

The code is not run: it is followed with the objects of the archive and an image of which nothing is known. What is
constant is computed, of the rest it is known what it depends on. It ends on every program, and says so where it had to
give up.
"""
