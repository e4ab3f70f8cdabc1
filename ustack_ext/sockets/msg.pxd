# The MSG_* flags of send and recv, by the platform's numbers.
cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_PEEK
        MSG_DONTWAIT
        MSG_WAITALL
        MSG_TRUNC
        MSG_CTRUNC
        MSG_OOB


cdef extern from * nogil:
    """
    #ifndef MSG_MORE
    #define MSG_MORE 0
    #endif
    #ifndef MSG_ERRQUEUE
    #define MSG_ERRQUEUE 0
    #endif
    #ifndef MSG_FASTOPEN
    #define MSG_FASTOPEN 0
    #endif
    """
    enum:
        MSG_MORE
        MSG_ERRQUEUE
        MSG_FASTOPEN
