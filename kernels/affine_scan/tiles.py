"""How the affine scan cuts its work: blocks of an interval's entries, which march side by side."""

BLOCK = 256
WARPS = 4
STAGES = 3  # the arrays of so many steps are on their way at a time
