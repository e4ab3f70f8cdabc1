# What changes a stack from Python shares.

cdef object answer(int rc, str what)       # -errno as the OSError it is; nothing for 0
