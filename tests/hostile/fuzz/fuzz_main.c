/* The fuzzer's main program: loads the instrumented Cython modules through an embedded interpreter, then hands each
 * input to fz_target.run_one, which never touches Python. Inputs are rows of 16-byte records behind two bytes; the
 * mutator works on whole records, so that one change does not turn all that follows into something else.
 *
 * Environment: USTACK_FUZZ_LIB, where the modules are; USTACK_FUZZ_MEDIUM, 0 Ethernet or 1 IP. */
#include <Python.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAD 2
#define RECORD 16

typedef const char *(*run_fn)(int medium, const uint8_t *p, size_t n);

int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*run)(const uint8_t *, size_t));
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t na, const uint8_t *b, size_t nb, uint8_t *out, size_t max,
                                 unsigned seed);

static run_fn run_one;
static int medium;

static int run(const uint8_t *p, size_t n)
{
    const char *broken = run_one(medium, p, n);
    if (broken) {
        fprintf(stderr, "INVARIANT: %s\n", broken);
        abort();
    }
    return 0;
}

static unsigned next_random(unsigned *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

/* One field of a record: a byte, or two, changed a little or wholly. */
static void bend(uint8_t *record, unsigned *state)
{
    uint8_t *at = record + next_random(state) % RECORD;
    switch (next_random(state) % 5) {
    case 0: *at = (uint8_t)next_random(state); break;
    case 1: *at ^= (uint8_t)(1u << next_random(state) % 8); break;
    case 2: *at = (uint8_t)(*at + next_random(state) % 9 - 4); break;
    case 3: *at = 0; break;
    default: LLVMFuzzerMutate(record, RECORD, RECORD);
    }
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    unsigned state = seed, times, what;
    size_t count, at;
    uint8_t *records = data + HEAD;
    if (max < HEAD + RECORD)
        return size;
    if (size < HEAD + RECORD) {
        memset(data + size, 0, HEAD + RECORD - size);
        size = HEAD + RECORD;
    }
    count = (size - HEAD) / RECORD;
    for (times = 1 + next_random(&state) % 4; times > 0; times--) {
        at = next_random(&state) % count;
        what = next_random(&state) % 16;
        if (what == 0)
            data[next_random(&state) % HEAD] = (uint8_t)next_random(&state);
        else if (what == 1 && count > 1) {                    /* without this record */
            memmove(records + at * RECORD, records + (at + 1) * RECORD, (count - at - 1) * RECORD);
            count--;
        } else if (what <= 4 && HEAD + (count + 1) * RECORD <= max) {     /* it once more, here or elsewhere */
            size_t from = next_random(&state) % count;
            uint8_t copy[RECORD];
            memcpy(copy, records + from * RECORD, RECORD);
            memmove(records + (at + 1) * RECORD, records + at * RECORD, (count - at) * RECORD);
            memcpy(records + at * RECORD, copy, RECORD);
            bend(records + at * RECORD, &state);
            count++;
        } else if (what == 5) {                               /* another kind of record, the rest as it is */
            records[at * RECORD] = (uint8_t)(next_random(&state) % 14);
        } else if (what == 6 && count > 1) {                  /* two change places */
            size_t other = next_random(&state) % count;
            uint8_t copy[RECORD];
            memcpy(copy, records + other * RECORD, RECORD);
            memmove(records + other * RECORD, records + at * RECORD, RECORD);
            memcpy(records + at * RECORD, copy, RECORD);
        } else if (what == 7) {
            size_t n = LLVMFuzzerMutate(records, count * RECORD, max - HEAD) / RECORD;
            if (n > 0)
                count = n;
        } else
            bend(records + at * RECORD, &state);
    }
    return HEAD + count * RECORD;
}

/* The beginning of one program and the end of another. */
size_t LLVMFuzzerCustomCrossOver(const uint8_t *a, size_t na, const uint8_t *b, size_t nb, uint8_t *out, size_t max,
                                 unsigned seed)
{
    unsigned state = seed;
    size_t ra, rb;
    if (na < HEAD + RECORD || nb < HEAD + RECORD)
        return 0;
    ra = 1 + next_random(&state) % ((na - HEAD) / RECORD);
    rb = next_random(&state) % ((nb - HEAD) / RECORD);
    na = HEAD + ra * RECORD;
    nb = (nb - HEAD) / RECORD * RECORD - rb * RECORD;
    if (na > max)
        return 0;
    if (na + nb > max)
        nb = (max - na) / RECORD * RECORD;
    memcpy(out, a, na);
    memcpy(out + na, b + HEAD + rb * RECORD, nb);
    return na + nb;
}

int main(int argc, char **argv)
{
    const char *lib = getenv("USTACK_FUZZ_LIB"), *which = getenv("USTACK_FUZZ_MEDIUM");
    PyObject *path, *module, *entry = NULL;
    if (!lib) {
        fprintf(stderr, "USTACK_FUZZ_LIB is not set: start this with python -m tests.hostile.fuzz\n");
        return 1;
    }
    medium = which ? atoi(which) : 0;
    Py_InitializeEx(0);
    path = PyUnicode_FromString(lib);
    PyList_Insert(PySys_GetObject("path"), 0, path);
    module = PyImport_ImportModule("fz_target");
    if (module)
        entry = PyObject_CallMethod(module, "entry", NULL);
    if (!entry) {
        PyErr_Print();
        return 1;
    }
    run_one = (run_fn)PyLong_AsVoidPtr(entry);
    PyEval_SaveThread();
    return LLVMFuzzerRunDriver(&argc, &argv, run);
}
