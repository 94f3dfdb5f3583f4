/* The functions of codec.py in C (RFC 6455, 5.2 and 5.3). Their documentation is in codec.py.

   The functions keep no state between calls. They read immutable bytes objects, to which the caller
   holds a reference, and never beyond the end of their arguments. They use only the stable ABI of
   Python 3.8, so that one binary works for all versions. */

#include <Python.h>
#include <stdint.h>
#include <string.h>

#define TEXT 0x81 /* the first byte of a whole message: FIN, and the opcode */
#define BINARY 0x82
#define MASKED 0x80 /* in the second byte */
#define KEY_SIZE 4
#define MAX_HEAD_SIZE (2 + 8 + KEY_SIZE)

/* A text of up to this size is unmasked on the stack. */
#define SHORT_TEXT 1024


/* -- masking */

/* Turn the key for the rest of a payload, after its first `done` bytes. */
static void
turn_key(unsigned char turned[KEY_SIZE], const unsigned char *key, size_t done)
{
    for (size_t i = 0; i < KEY_SIZE; i++) {
        turned[i] = key[(done + i) % KEY_SIZE];
    }
}

/* Mask or unmask `size` bytes. Without a key, copy them. */
static void
mask_bytes(unsigned char *to, const unsigned char *from, size_t size, const unsigned char *key)
{
    if (key == NULL) {
        memcpy(to, from, size);
        return;
    }
    unsigned char keys[2 * KEY_SIZE];
    memcpy(keys, key, KEY_SIZE);
    memcpy(keys + KEY_SIZE, key, KEY_SIZE);
    uint64_t key_word, word;
    memcpy(&key_word, keys, sizeof key_word);
    size_t i = 0;
    for (; size - i >= sizeof word; i += sizeof word) {
        memcpy(&word, from + i, sizeof word);
        word ^= key_word;
        memcpy(to + i, &word, sizeof word);
    }
    for (; i < size; i++) {
        to[i] = from[i] ^ keys[i % sizeof keys];
    }
}


/* -- arguments and results */

static const unsigned char *
content(PyObject *bytes)
{
    return (const unsigned char *)PyBytes_AsString(bytes);
}

/* Return a new bytes object. The caller must write its content. */
static PyObject *
new_bytes(size_t size)
{
    if (size > (size_t)PY_SSIZE_T_MAX) {
        return PyErr_NoMemory();
    }
    return PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
}

static unsigned char *
new_content(PyObject *bytes)
{
    return (unsigned char *)PyBytes_AsString(bytes);
}

/* Return the bytes of a key. Return NULL without an exception if the key is empty and may be empty.
   Return NULL with an exception if its size is wrong. */
static const unsigned char *
key_of(PyObject *bytes, int may_be_empty)
{
    Py_ssize_t size = PyBytes_Size(bytes);
    if (size == KEY_SIZE) {
        return content(bytes);
    }
    if (size != 0 || !may_be_empty) {
        PyErr_SetString(PyExc_ValueError, "the key has not 4 bytes");
    }
    return NULL;
}

/* A converter for PyArg_ParseTuple: an upper bound. A bound above PY_SSIZE_T_MAX is reduced to that
   value, because no object is larger. A negative bound becomes -1. */
static int
bound_of(PyObject *number, void *bound)
{
    if (!PyLong_Check(number)) {
        PyErr_SetString(PyExc_TypeError, "a bound must be int");
        return 0;
    }
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (overflow > 0 || value > PY_SSIZE_T_MAX) {
        *(Py_ssize_t *)bound = PY_SSIZE_T_MAX;
    } else {
        *(Py_ssize_t *)bound = overflow < 0 || value < 0 ? -1 : (Py_ssize_t)value;
    }
    return 1;
}


/* -- masking and framing, for Python */

static PyObject *
masked(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *payload, *key_bytes;
    if (!PyArg_ParseTuple(args, "SS:masked", &payload, &key_bytes)) {
        return NULL;
    }
    const unsigned char *key = key_of(key_bytes, 0);
    if (key == NULL) {
        return NULL;
    }
    size_t size = (size_t)PyBytes_Size(payload);
    PyObject *result = new_bytes(size);
    if (result != NULL) {
        mask_bytes(new_content(result), content(payload), size, key);
    }
    return result;
}

/* Return the size of all chunks, or -1 with an exception. */
static Py_ssize_t
joined_size(PyObject *chunks)
{
    Py_ssize_t total = 0;
    for (Py_ssize_t i = 0; i < PyTuple_Size(chunks); i++) {
        PyObject *chunk = PyTuple_GetItem(chunks, i);
        if (!PyBytes_Check(chunk)) {
            PyErr_SetString(PyExc_TypeError, "a chunk must be bytes");
            return -1;
        }
        Py_ssize_t size = PyBytes_Size(chunk);
        if (size > PY_SSIZE_T_MAX - total) {
            PyErr_NoMemory();
            return -1;
        }
        total += size;
    }
    return total;
}

static PyObject *
unmasked(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *list, *key_bytes;
    if (!PyArg_ParseTuple(args, "O!S:unmasked", &PyList_Type, &list, &key_bytes)) {
        return NULL;
    }
    const unsigned char *key = key_of(key_bytes, 1);
    if (key == NULL && PyErr_Occurred()) {
        return NULL;
    }
    PyObject *chunks = PyList_AsTuple(list); /* another thread may change the list */
    if (chunks == NULL) {
        return NULL;
    }
    Py_ssize_t total = joined_size(chunks);
    PyObject *result = total < 0 ? NULL : new_bytes((size_t)total);
    if (result != NULL) {
        unsigned char *to = new_content(result);
        size_t done = 0;
        for (Py_ssize_t i = 0; i < PyTuple_Size(chunks); i++) {
            PyObject *chunk = PyTuple_GetItem(chunks, i);
            size_t size = (size_t)PyBytes_Size(chunk);
            unsigned char turned[KEY_SIZE];
            if (key != NULL) {
                turn_key(turned, key, done);
            }
            mask_bytes(to + done, content(chunk), size, key == NULL ? NULL : turned);
            done += size;
        }
    }
    Py_DECREF(chunks);
    return result;
}

static unsigned char *
write_big_endian(unsigned char *to, uint64_t number, int size)
{
    for (int shift = 8 * (size - 1); shift >= 0; shift -= 8) {
        *to++ = (unsigned char)(number >> shift);
    }
    return to;
}

/* Write the head of a frame, with the key. Return the position after it. */
static unsigned char *
write_head(unsigned char *to, unsigned char first, uint64_t size, const unsigned char *key)
{
    unsigned char mask = key == NULL ? 0 : MASKED;
    *to++ = first;
    if (size < 126) {
        *to++ = mask | (unsigned char)size;
    } else if (size < 0x10000) {
        *to++ = mask | 126;
        to = write_big_endian(to, size, 2);
    } else {
        *to++ = mask | 127;
        to = write_big_endian(to, size, 8);
    }
    if (key != NULL) {
        memcpy(to, key, KEY_SIZE);
        to += KEY_SIZE;
    }
    return to;
}

static PyObject *
frame(PyObject *Py_UNUSED(module), PyObject *args)
{
    int first;
    PyObject *payload, *key_bytes;
    if (!PyArg_ParseTuple(args, "iSS:frame", &first, &payload, &key_bytes)) {
        return NULL;
    }
    if (first < 0 || first > 0xFF) {
        PyErr_SetString(PyExc_ValueError, "the first byte must be in range(256)");
        return NULL;
    }
    const unsigned char *key = key_of(key_bytes, 1);
    if (key == NULL && PyErr_Occurred()) {
        return NULL;
    }
    unsigned char head[MAX_HEAD_SIZE];
    size_t size = (size_t)PyBytes_Size(payload);
    size_t head_size = (size_t)(write_head(head, (unsigned char)first, size, key) - head);
    PyObject *result = new_bytes(head_size + size);
    if (result != NULL) {
        unsigned char *to = new_content(result);
        memcpy(to, head, head_size);
        mask_bytes(to + head_size, content(payload), size, key);
    }
    return result;
}


/* -- decoding */

typedef struct {
    int is_text;
    const unsigned char *key; /* NULL if the message is not masked */
    const unsigned char *payload;
    size_t size; /* of the payload */
} Message;

static uint64_t
read_big_endian(const unsigned char *from, int size)
{
    uint64_t number = 0;
    while (size-- > 0) {
        number = number << 8 | *from++;
    }
    return number;
}

/* Return 1 if the data begins with a whole message of one frame. The payload is not checked. */
static int
find_message(
    Message *message, const unsigned char *at, size_t available, unsigned mask, size_t max_size)
{
    if (available < 2 || (at[0] != TEXT && at[0] != BINARY)) {
        return 0;
    }
    unsigned second = at[1] ^ mask; /* above 127 if the mask bit is wrong */
    uint64_t size = second;
    size_t head_size = 2;
    if (second > 127) {
        return 0;
    }
    if (second > 125) {
        head_size += second == 126 ? 2 : 8;
        if (available < head_size) {
            return 0;
        }
        size = read_big_endian(at + 2, (int)head_size - 2);
        if (size < (second == 126 ? 126 : 0x10000)) {
            return 0;
        }
    }
    message->key = NULL;
    if (mask) {
        message->key = at + head_size;
        head_size += KEY_SIZE;
    }
    if (available < head_size || size > available - head_size || size > max_size) {
        return 0;
    }
    message->is_text = at[0] == TEXT;
    message->payload = at + head_size;
    message->size = (size_t)size;
    return 1;
}

/* Return the text as str, or NULL with an exception: UnicodeDecodeError if it is not UTF-8. */
static PyObject *
decode_text(const Message *message)
{
    const Py_ssize_t size = (Py_ssize_t)message->size;
    if (message->key == NULL) {
        return PyUnicode_DecodeUTF8((const char *)message->payload, size, NULL);
    }
    unsigned char on_stack[SHORT_TEXT], *plain = on_stack;
    if (message->size > sizeof on_stack) {
        plain = PyMem_Malloc(message->size);
        if (plain == NULL) {
            return PyErr_NoMemory();
        }
    }
    mask_bytes(plain, message->payload, message->size, message->key);
    PyObject *text = PyUnicode_DecodeUTF8((const char *)plain, size, NULL);
    if (plain != on_stack) {
        PyMem_Free(plain);
    }
    return text;
}

static int
is_ascii(const unsigned char *bytes, size_t size)
{
    uint64_t word, seen = 0;
    size_t i = 0;
    for (; size - i >= sizeof word; i += sizeof word) {
        memcpy(&word, bytes + i, sizeof word);
        seen |= word;
    }
    for (; i < size; i++) {
        seen |= bytes[i];
    }
    return (seen & UINT64_C(0x8080808080808080)) == 0;
}

/* Return the payload as bytes, or NULL with an exception, also if a text is not UTF-8. */
static PyObject *
decode_bytes(const Message *message)
{
    PyObject *result = new_bytes(message->size);
    if (result == NULL) {
        return NULL;
    }
    unsigned char *plain = new_content(result);
    mask_bytes(plain, message->payload, message->size, message->key);
    if (message->is_text && !is_ascii(plain, message->size)) {
        PyObject *text = PyUnicode_DecodeUTF8((char *)plain, (Py_ssize_t)message->size, NULL);
        if (text == NULL) {
            Py_DECREF(result);
            return NULL;
        }
        Py_DECREF(text);
    }
    return result;
}

/* Append a message to a list. Return 1, or 0 if it is not UTF-8, or -1 with an exception. */
static int
append_message(PyObject *list, const Message *message, int raw)
{
    PyObject *decoded =
        message->is_text && !raw ? decode_text(message) : decode_bytes(message);
    if (decoded == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
            return -1;
        }
        PyErr_Clear();
        return 0;
    }
    int failed = PyList_Append(list, decoded);
    Py_DECREF(decoded);
    return failed ? -1 : 1;
}

static PyObject *
messages(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyObject *buffer;
    Py_ssize_t at, max_size, max_count;
    int mask, raw;
    if (!PyArg_ParseTuple(args, "SniO&O&p:messages", &buffer, &at, &mask, bound_of, &max_size,
                          bound_of, &max_count, &raw)) {
        return NULL;
    }
    const Py_ssize_t end = PyBytes_Size(buffer);
    if (at < 0 || at > end) {
        PyErr_SetString(PyExc_ValueError, "the place is not in the buffer");
        return NULL;
    }
    if (mask != 0 && mask != MASKED) {
        PyErr_SetString(PyExc_ValueError, "the mask bit must be 0x80 or 0");
        return NULL;
    }
    PyObject *found = PyList_New(0);
    if (found == NULL) {
        return NULL;
    }
    const unsigned char *start = content(buffer);
    Py_ssize_t total = 0;
    Message message;
    for (Py_ssize_t count = 0; count < max_count && max_size >= 0; count++) {
        if (!find_message(
                &message, start + at, (size_t)(end - at), (unsigned)mask, (size_t)max_size)) {
            break;
        }
        int appended = append_message(found, &message, raw);
        if (appended < 0) {
            Py_DECREF(found);
            return NULL;
        }
        if (!appended) {
            break;
        }
        total += (Py_ssize_t)message.size;
        at = (message.payload - start) + (Py_ssize_t)message.size;
    }
    return Py_BuildValue("(Nnn)", found, at, total);
}


/* -- the module */

static PyMethodDef functions[] = {
    {"masked", masked, METH_VARARGS, PyDoc_STR("masked(payload, key, /)\n--\n\n")},
    {"unmasked", unmasked, METH_VARARGS, PyDoc_STR("unmasked(chunks, key, /)\n--\n\n")},
    {"frame", frame, METH_VARARGS, PyDoc_STR("frame(first, payload, key, /)\n--\n\n")},
    {"messages", messages, METH_VARARGS,
     PyDoc_STR("messages(buffer, at, mask, max_size, max_count, raw, /)\n--\n\n")},
    {NULL, NULL, 0, NULL},
};

/* Test for the values of the slots, not their names, which Python 3.15 defines for every ABI. */
static PyModuleDef_Slot slots[] = {
#ifdef Py_MOD_PER_INTERPRETER_GIL_SUPPORTED
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#endif
#ifdef Py_MOD_GIL_NOT_USED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_speedups",
    .m_doc = PyDoc_STR("Masking, framing and decoding of WebSocket messages."),
    .m_methods = functions,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__speedups(void)
{
    return PyModuleDef_Init(&module);
}
