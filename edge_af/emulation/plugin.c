/* Counts the instructions that a guest of qemu-user executes, by class, and the memory traffic behind a simulated cache.
 *
 * A plugin for QEMU's TCG and AArch64 guests with one thread. No package ships QEMU's header, so the few prototypes of its
 * plugin interface (version 1) are declared here. Counting is per translated block: its sums are added when it is entered.
 *
 * The guest sets a mark with a system call without effect, getpgid(0x0ED6E000 | n). At each mark, a JSON line with the counts
 * so far is written to the file named in EDGE_AF_COUNTS. The first mark also starts the cache simulation, which is slow.
 *
 * The cache has one level of EDGE_AF_CACHE_BYTES, 16 ways and lines of 64 bytes. It is write-back and evicts the least recently
 * used line. Fetches and write-backs are counted as bytes from and to memory; a prefetcher would not change their sum.
 *
 * Encodings: Arm Architecture Reference Manual for A-profile, C4 "A64 instruction set encoding".
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
enum qemu_plugin_mem_rw { QEMU_PLUGIN_MEM_R = 1, QEMU_PLUGIN_MEM_W, QEMU_PLUGIN_MEM_RW };
void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *,
                                      void (*)(unsigned, qemu_plugin_meminfo_t, uint64_t, void *),
                                      enum qemu_plugin_cb_flags, enum qemu_plugin_mem_rw, void *);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, void (*)(qemu_plugin_id_t, unsigned, int64_t, uint64_t, uint64_t,
                                          uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
unsigned qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t);
bool qemu_plugin_mem_is_store(qemu_plugin_meminfo_t);
int qemu_plugin_version = 1;

enum { TOTAL, DOT, DOT_MACS, INTEGER, INTEGER_MACS, FLOAT, FLOAT_MACS, SIMD, LOAD, STORE, CLASSES };
static const char *const NAMES[CLASSES] = {
    "instructions", "dot_product", "dot_product_macs", "integer_multiply", "integer_multiply_macs",
    "float_multiply_add", "float_multiply_add_macs", "vector", "loads", "stores",
};
static uint64_t counts[CLASSES];

/* -- classes of instructions ----------------------------------------------------------------------------------------- */

static uint32_t bits(uint32_t word, unsigned high, unsigned low) { return word >> low & ((2u << (high - low)) - 1); }

/* Adds one instruction to the sums of its block. MACS: multiplications, with or without an addition. */
static void classify(uint32_t w, uint64_t sums[CLASSES]) {
    uint32_t group = bits(w, 28, 25), wide = bits(w, 30, 30), u = bits(w, 29, 29), size = bits(w, 23, 22);
    uint64_t bytes = wide ? 16 : 8;
    sums[TOTAL]++;
    if ((group & 5) == 4) { /* loads and stores */
        uint32_t kind = bits(w, 29, 28), store;
        if (kind == 1 && !bits(w, 24, 24))
            store = 0; /* literal */
        else if (kind == 3) /* one register: the size of vectors has one more bit */
            store = size == 0 || (bits(w, 26, 26) && size == 2);
        else
            store = !bits(w, 22, 22);
        if (kind == 3 && !bits(w, 26, 26) && bits(w, 31, 30) == 3 && size == 2)
            return; /* prefetch: reads nothing */
        sums[store ? STORE : LOAD]++;
        return;
    }
    if ((group & 7) != 7)
        return;
    sums[SIMD]++;
    if (bits(w, 31, 29) == 0 && bits(w, 28, 24) == 0x1f) { /* scalar FMADD and relatives */
        sums[FLOAT]++;
        sums[FLOAT_MACS]++;
        return;
    }
    if (bits(w, 31, 31))
        return;
    enum { NONE, DOT4, MATRIX, INT_SAME, INT_LONG, REAL, HALF } what = NONE;
    uint32_t form = bits(w, 28, 24);
    if (form == 0x0e && bits(w, 21, 21) && bits(w, 10, 10)) { /* three registers of the same shape */
        uint32_t op = bits(w, 15, 11);
        if (op == 0x12 || op == 0x13 || op == 0x16)
            what = INT_SAME; /* MLA MLS MUL PMUL SQDMULH SQRDMULH */
        else if (op == 0x19 && !u)
            what = REAL; /* FMLA FMLS */
        else if ((op == 0x1d && !u && !bits(w, 22, 22)) || (op == 0x19 && u && !bits(w, 22, 22)))
            what = HALF; /* FMLAL FMLSL, as many products as the shape has single-precision lanes */
    } else if (form == 0x0e && !bits(w, 21, 21) && bits(w, 15, 15) && bits(w, 10, 10)) { /* later extensions */
        uint32_t op = bits(w, 14, 11);
        what = op == 2 || op == 3 ? DOT4 : op == 4 || op == 5 ? MATRIX : op < 2 ? INT_SAME : NONE;
    } else if (form == 0x0e && bits(w, 22, 21) == 2 && bits(w, 15, 14) == 0 && bits(w, 10, 10)) { /* half precision */
        if (bits(w, 13, 11) == 1 && !u) {
            sums[FLOAT]++;
            sums[FLOAT_MACS] += bytes / 2;
        }
        return;
    } else if (form == 0x0e && bits(w, 21, 21) && bits(w, 11, 10) == 0) { /* three registers, wider result */
        uint32_t op = bits(w, 15, 12);
        what = op >= 8 && op <= 14 ? INT_LONG : NONE; /* SMLAL SQDMLAL SMLSL SQDMLSL SMULL SQDMULL PMULL */
    } else if (form == 0x0f && !bits(w, 10, 10)) { /* by element */
        uint32_t op = bits(w, 15, 12);
        if (op == 14 || (op == 15 && !u && (size == 0 || size == 2)))
            what = DOT4;
        else if (op == 2 || op == 3 || op == 6 || op == 7 || op == 10 || op == 11)
            what = INT_LONG;
        else if (op == 8 && !u)
            what = INT_SAME;
        else if (op == 12 || op == 13 || (u && (op == 0 || op == 4 || op == 15)))
            what = INT_SAME;
        else if (!u && (op == 1 || op == 5)) {
            sums[FLOAT]++;
            sums[FLOAT_MACS] += size == 0 ? bytes / 2 : size == 3 ? bytes / 8 : bytes / 4;
            return;
        }
    }
    switch (what) {
    case DOT4: sums[DOT]++; sums[DOT_MACS] += bytes; break;
    case MATRIX: sums[DOT]++; sums[DOT_MACS] += 32; break;
    case INT_SAME: sums[INTEGER]++; sums[INTEGER_MACS] += bytes >> size; break;
    case INT_LONG: sums[INTEGER]++; sums[INTEGER_MACS] += 8 >> size; break;
    case REAL: sums[FLOAT]++; sums[FLOAT_MACS] += bytes / (bits(w, 22, 22) ? 8 : 4); break;
    case HALF: sums[FLOAT]++; sums[FLOAT_MACS] += bytes / 4; break;
    case NONE: break;
    }
}

/* -- the cache ------------------------------------------------------------------------------------------------------- */

enum { WAYS = 16, LINE_SHIFT = 6 };
typedef struct { uint64_t tag, used; bool dirty; } Line;
static Line *lines;
static uint64_t sets, now, fetched, written, loaded_bytes, stored_bytes, last_line = UINT64_MAX;
static bool last_dirty, caching;

static void touch(uint64_t line, bool store) {
    if (line == last_line && (last_dirty || !store))
        return;
    Line *set = lines + line % sets * WAYS, *oldest = set, *found = NULL;
    for (int way = 0; way < WAYS && !found; way++) {
        if (set[way].tag == line + 1)
            found = set + way;
        else if (set[way].used < oldest->used)
            oldest = set + way;
    }
    if (!found) {
        found = oldest;
        fetched += 1 << LINE_SHIFT;
        written += found->dirty ? 1 << LINE_SHIFT : 0;
        found->tag = line + 1;
        found->dirty = false;
    }
    found->used = ++now;
    found->dirty |= store;
    last_line = line;
    last_dirty = found->dirty;
}

static void on_access(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *unused) {
    (void)vcpu, (void)unused;
    if (!caching)
        return;
    uint64_t size = 1ull << qemu_plugin_mem_size_shift(info);
    bool store = qemu_plugin_mem_is_store(info);
    *(store ? &stored_bytes : &loaded_bytes) += size;
    touch(address >> LINE_SHIFT, store);
    if ((address + size - 1) >> LINE_SHIFT != address >> LINE_SHIFT)
        touch((address + size - 1) >> LINE_SHIFT, store);
}

/* -- QEMU's calls ---------------------------------------------------------------------------------------------------- */

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    (void)id;
    uint64_t sums[CLASSES] = {0};
    size_t count = qemu_plugin_tb_n_insns(block);
    for (size_t index = 0; index < count; index++) {
        struct qemu_plugin_insn *one = qemu_plugin_tb_get_insn(block, index);
        uint32_t word = *(const uint32_t *)qemu_plugin_insn_data(one);
        classify(word, sums);
        if ((bits(word, 28, 25) & 5) == 4)
            qemu_plugin_register_vcpu_mem_cb(one, on_access, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, NULL);
    }
    for (int class = 0; class < CLASSES; class++)
        if (sums[class])
            qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &counts[class], sums[class]);
}

static void on_call(qemu_plugin_id_t id, unsigned vcpu, int64_t number, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                    uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)vcpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    enum { GETPGID = 155 };
    if (number != GETPGID || (a1 & 0xfffff000) != 0x0ed6e000)
        return;
    const char *path = getenv("EDGE_AF_COUNTS");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (!file)
        return;
    fprintf(file, "{\"mark\": %" PRIu64, a1 & 0xfff);
    for (int class = 0; class < CLASSES; class++)
        fprintf(file, ", \"%s\": %" PRIu64, NAMES[class], counts[class]);
    fprintf(file, ", \"loaded_bytes\": %" PRIu64 ", \"stored_bytes\": %" PRIu64, loaded_bytes, stored_bytes);
    fprintf(file, ", \"memory_read_bytes\": %" PRIu64 ", \"memory_written_bytes\": %" PRIu64 "}\n", fetched, written);
    fclose(file);
    caching = lines != NULL;
}

int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    (void)info, (void)argc, (void)argv;
    const char *size = getenv("EDGE_AF_CACHE_BYTES");
    sets = (size ? strtoull(size, NULL, 10) : 0) / (WAYS << LINE_SHIFT);
    lines = sets ? calloc(sets * WAYS, sizeof *lines) : NULL;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_vcpu_syscall_cb(id, on_call);
    return 0;
}
