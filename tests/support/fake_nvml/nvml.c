/* A driver that says what a test tells it to: libnvidia-ml.so.1 over a file that is shared.

The file ($FAKE_NVML) holds a struct script, which control.py writes and reads at any time, from any
process. What Triton holds is kept by process: memory of a process that died is free again, as with
a real driver.

Handles are addresses of the struct gpu or struct instance that they name. */

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { GPUS = 8, INSTANCES = 7, ACCOUNTS = 8 };
enum {
    SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9, TIMEOUT = 10
};
enum { EVENT_XID = 8, MIG_NAME = 96 };
static const uint32_t ALL_INSTANCES = 0xFFFFFFFF;

struct account {
    uint32_t pid, unused;
    uint64_t bytes;
};

struct instance {
    uint64_t total, used;
    uint32_t gpu, id; /* its board's index, and the instance's own id on it */
};

struct gpu {
    uint64_t total, base; /* base: used beside what is in the accounts */
    uint64_t leak;        /* of each unload so much is not given back (used by the toy models) */
    uint64_t ecc;
    uint32_t index, utilisation, temperature, milliwatts;
    uint32_t error;   /* what every call about it returns; 0 is success */
    uint32_t slow_ms; /* how long every call about it takes */
    uint32_t plain;   /* a consumer's card: no power, no ECC, no events */
    uint32_t xids;    /* how many were raised */
    uint32_t xid, xid_instance;
    uint32_t instances; /* MIG; 0 is off */
    uint32_t unused;
    struct account accounts[ACCOUNTS];
    struct instance mig[INSTANCES];
};

struct script {
    uint32_t count, init_error, init_slow_ms, calls;
    struct gpu gpus[GPUS];
};

static struct script *script;

static void take_ms(uint32_t ms) {
    struct timespec pause = {ms / 1000, (ms % 1000) * 1000000L};
    nanosleep(&pause, NULL);
}

static int is_instance(const void *handle) {
    const char *at = handle;
    const struct gpu *gpu = script->gpus + (at - (const char *)script->gpus) / (long)sizeof *gpu;
    return at != (const char *)gpu;
}

static struct gpu *board(void *handle) {
    return script->gpus + ((char *)handle - (char *)script->gpus) / (long)sizeof(struct gpu);
}

/* Every call about a device: its slowness, then its error. */
static int met(void *handle) {
    if (!script || !handle) return INVALID_ARGUMENT;
    __sync_fetch_and_add(&script->calls, 1);
    struct gpu *gpu = board(handle);
    take_ms(gpu->slow_ms);
    return (int)gpu->error;
}

#define MEET(handle) do { int told = met(handle); if (told) return told; } while (0)

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    if (!script) {
        const char *path = getenv("FAKE_NVML");
        int file = path ? open(path, O_RDWR) : -1;
        if (file < 0) return DRIVER_NOT_LOADED;
        script = mmap(NULL, sizeof *script, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        if (script == MAP_FAILED) return DRIVER_NOT_LOADED;
    }
    take_ms(script->init_slow_ms);
    return (int)script->init_error;
}

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int error) { (void)error; return "an error of the fake driver"; }

int nvmlDeviceGetCount_v2(unsigned *count) { *count = script->count; return SUCCESS; }

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    if (index >= script->count) return INVALID_ARGUMENT;
    MEET(&script->gpus[index]);
    *handle = &script->gpus[index];
    return SUCCESS;
}

/* GPU-INDEX and MIG-INDEX-INSTANCE. */
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    unsigned index, instance;
    if (sscanf(uuid, "GPU-%u", &index) == 1) return nvmlDeviceGetHandleByIndex_v2(index, handle);
    if (sscanf(uuid, "MIG-%u-%u", &index, &instance) != 2) return INVALID_ARGUMENT;
    if (index >= script->count || instance >= script->gpus[index].instances) return NOT_FOUND;
    MEET(&script->gpus[index]);
    *handle = &script->gpus[index].mig[instance];
    return SUCCESS;
}

int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned length) {
    MEET(handle);
    struct instance *mig = handle;
    if (is_instance(handle)) snprintf(uuid, length, "MIG-%u-%u", mig->gpu, mig->id);
    else snprintf(uuid, length, "GPU-%u", board(handle)->index);
    return SUCCESS;
}

int nvmlDeviceGetName(void *handle, char *name, unsigned length) {
    MEET(handle);
    struct instance *mig = handle;
    int gigabytes = is_instance(handle) ? (int)(mig->total >> 30) : 0;
    if (gigabytes) snprintf(name, length, "NVIDIA Fake MIG 1g.%dgb", gigabytes);
    else snprintf(name, length, "NVIDIA Fake");
    return SUCCESS;
}

static int is_alive(uint32_t pid) {
    char path[64], text[512] = "";
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t length = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[length] = 0;
    const char *name_end = strrchr(text, ')');
    return name_end && name_end[2] != 'Z';
}

int nvmlDeviceGetMemoryInfo(void *handle, uint64_t memory[3]) { /* total, free, used */
    MEET(handle);
    uint64_t total, used;
    if (is_instance(handle)) {
        struct instance *mig = handle;
        total = mig->total, used = mig->used;
    } else {
        struct gpu *gpu = handle;
        total = gpu->total, used = gpu->base;
        for (int i = 0; i < ACCOUNTS; i++)
            if (gpu->accounts[i].pid && is_alive(gpu->accounts[i].pid)) used += gpu->accounts[i].bytes;
    }
    memory[0] = total, memory[1] = total - used, memory[2] = used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *handle, unsigned rates[2]) {
    MEET(handle);
    if (is_instance(handle)) return NOT_SUPPORTED; /* as with a real one */
    rates[0] = board(handle)->utilisation, rates[1] = 0;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned *degrees) {
    (void)sensor;
    MEET(handle);
    if (is_instance(handle)) return INVALID_ARGUMENT;
    *degrees = board(handle)->temperature;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) {
    MEET(handle);
    if (is_instance(handle) || board(handle)->plain) return NOT_SUPPORTED;
    *milliwatts = board(handle)->milliwatts;
    return SUCCESS;
}

int nvmlDeviceGetTotalEccErrors(void *handle, int kind, int counter, unsigned long long *errors) {
    MEET(handle);
    if (is_instance(handle) || board(handle)->plain) return NOT_SUPPORTED;
    *errors = kind == 1 && counter == 0 ? board(handle)->ecc : 0; /* uncorrected, volatile */
    return SUCCESS;
}

struct process { unsigned pid; unsigned long long bytes; unsigned instance, compute; };

int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, struct process *found) {
    MEET(handle);
    if (is_instance(handle)) return *count = 0, SUCCESS;
    struct gpu *gpu = handle;
    unsigned room = *count, n = 0;
    for (int i = 0; i < ACCOUNTS; i++) {
        struct account *account = &gpu->accounts[i];
        if (!account->pid || !is_alive(account->pid)) continue;
        if (n < room) found[n] = (struct process){account->pid, account->bytes, 0, 0};
        n++;
    }
    *count = n;
    return n > room ? INSUFFICIENT_SIZE : SUCCESS;
}

/* MIG. */

int nvmlDeviceGetMigMode(void *handle, unsigned *now, unsigned *pending) {
    MEET(handle);
    *now = *pending = board(handle)->instances > 0;
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) {
    MEET(handle);
    *count = INSTANCES;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **instance) {
    MEET(handle);
    if (index >= board(handle)->instances) return NOT_FOUND;
    *instance = &board(handle)->mig[index];
    return SUCCESS;
}

int nvmlDeviceIsMigDeviceHandle(void *handle, unsigned *is) {
    MEET(handle);
    *is = (unsigned)is_instance(handle);
    return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *handle, void **whole) {
    MEET(handle);
    *whole = board(handle);
    return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *id) {
    MEET(handle);
    if (!is_instance(handle)) return INVALID_ARGUMENT;
    *id = ((struct instance *)handle)->id;
    return SUCCESS;
}

/* Events: each GPU's XIDs that were raised since the set was asked to hear of it. */

struct event_set { uint32_t heard[GPUS], wants[GPUS]; };
struct event { void *device; unsigned long long type, data; unsigned instance, compute; };

int nvmlDeviceGetSupportedEventTypes(void *handle, unsigned long long *types) {
    MEET(handle);
    *types = board(handle)->plain ? 0 : EVENT_XID;
    return SUCCESS;
}

int nvmlEventSetCreate(struct event_set **set) {
    *set = calloc(1, sizeof **set);
    return SUCCESS;
}

int nvmlEventSetFree(struct event_set *set) { free(set); return SUCCESS; }

int nvmlDeviceRegisterEvents(void *handle, unsigned long long types, struct event_set *set) {
    MEET(handle);
    struct gpu *gpu = board(handle);
    if (gpu->plain || !(types & EVENT_XID)) return NOT_SUPPORTED;
    set->heard[gpu->index] = gpu->xids, set->wants[gpu->index] = 1;
    return SUCCESS;
}

int nvmlEventSetWait_v2(struct event_set *set, struct event *event, unsigned timeout_ms) {
    for (unsigned waited = 0;; waited += 10) {
        for (uint32_t i = 0; i < script->count; i++) {
            struct gpu *gpu = &script->gpus[i];
            if (!set->wants[i] || set->heard[i] == gpu->xids) continue;
            set->heard[i] = gpu->xids;
            *event = (struct event){gpu, EVENT_XID, gpu->xid, gpu->xid_instance, ALL_INSTANCES};
            return SUCCESS;
        }
        if (waited >= timeout_ms) return TIMEOUT;
        take_ms(10);
    }
}
