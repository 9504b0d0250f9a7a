/* A libnvidia-ml.so.1 that plays GPUs from a script, so that the real pynvml can be driven where there are none.
 *
 * The script is the file that NVML_STUB names, otherwise /etc/nvml-stub.conf. It is read again at each call: a test
 * changes the world by rewriting it. One thing a line, blanks between its words; sizes are MiB, and `_` stands for a
 * blank within a name:
 *
 *   driver 550.54.15
 *   cuda 12040
 *   journal /path                                     nvmlInit and nvmlShutdown append a line each
 *   gpu uuid=GPU-1 name=NVIDIA_A100 pci=00000000:01:00.0 total=40960 reserved=600 used=0
 *       util=3 temp=41 power=55 limit=400 mig=1 ecc=1 gen=4 width=16
 *       (on the same line; a key left out is "not supported")
 *   link a=0 b=1 path=40 nvlinks=4                    (an nvmlGpuTopologyLevel_t, and NVLinks between two cards)
 *   mig uuid=MIG-1 gpu=0 position=2 name=NVIDIA_A100_MIG_1g.5gb total=4864 used=12
 *   process on=GPU-1 pid=4242 used=20000 as=compute   (or graphics, or both; used=? : the driver will not say)
 *   fault call=nvmlDeviceGetTemperature gpu=0 answer=999
 *       (answer: an nvmlReturn_t, or `hang`, or `crash`; without call: every call on that GPU)
 *
 * Built with -DOLD_DRIVER it lacks what drivers before 470 lack. Layouts of structures are those of nvml.h. */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND = 6, INSUFFICIENT_SIZE, VERSION_MISMATCH = 25 };
enum { MAX = 16, ABSENT = -1, HANG = -1000, CRASH = -1001 };
enum { COMPUTE = 1, GRAPHICS = 2 };

typedef unsigned long long Bytes;

typedef struct {
    char uuid[80], name[96], pci[32];
    int card;     /* of a MIG device: its card; ABSENT: this is a card */
    int position; /* of a card among the cards, of a MIG device on its card */
    Bytes total, reserved, used;
    int util, temp, power, limit, mig, ecc, gen, width;
} Device;

typedef struct {
    char on[80];
    unsigned pid;
    Bytes used;
    int as;
} Process;

typedef struct {
    char call[64];
    int gpu, answer;
} Fault;

typedef struct {
    int ends[2], path, nvlinks;
} Link;

static struct {
    char driver[80], journal[512];
    int cuda, device_count, card_count, process_count, fault_count, link_count;
    Device devices[MAX];
    Process processes[MAX];
    Fault faults[MAX];
    Link links[MAX];
} world;

static int sessions;

/* --- the script ------------------------------------------------------------------------------------------------ */

/* The value of `key=` in the line; 0 where it is not there. */
static int text_of(const char *line, const char *key, char *value, size_t size) {
    char wanted[32];
    snprintf(wanted, sizeof wanted, " %s=", key);
    const char *found = strstr(line, wanted);
    if (!found) return 0;
    found += strlen(wanted);
    snprintf(value, size, "%.*s", (int)strcspn(found, " \n"), found);
    return 1;
}

static int number_of(const char *line, const char *key) {
    char value[32];
    return text_of(line, key, value, sizeof value) ? atoi(value) : ABSENT;
}

static Bytes mebibytes_of(const char *line, const char *key) {
    int value = number_of(line, key);
    return value == ABSENT ? 0 : (Bytes)value << 20;
}

static void read_device(const char *line, int is_card) {
    Device *device = &world.devices[world.device_count++];
    text_of(line, "uuid", device->uuid, sizeof device->uuid);
    text_of(line, "name", device->name, sizeof device->name);
    text_of(line, "pci", device->pci, sizeof device->pci);
    for (char *each = device->name; *each; each++)
        if (*each == '_') *each = ' ';
    device->card = is_card ? ABSENT : number_of(line, "gpu");
    device->position = is_card ? world.card_count++ : number_of(line, "position");
    device->total = mebibytes_of(line, "total");
    device->reserved = mebibytes_of(line, "reserved");
    device->used = mebibytes_of(line, "used");
    device->util = number_of(line, "util");
    device->temp = number_of(line, "temp");
    device->power = number_of(line, "power");
    device->limit = number_of(line, "limit");
    device->mig = number_of(line, "mig");
    device->ecc = number_of(line, "ecc");
    device->gen = number_of(line, "gen");
    device->width = number_of(line, "width");
}

static void read_process(const char *line) {
    Process *process = &world.processes[world.process_count++];
    char word[16] = "";
    text_of(line, "on", process->on, sizeof process->on);
    process->pid = (unsigned)number_of(line, "pid");
    text_of(line, "used", word, sizeof word);
    process->used = strcmp(word, "?") ? mebibytes_of(line, "used") : (Bytes)-1;
    text_of(line, "as", word, sizeof word);
    process->as = !strcmp(word, "both") ? COMPUTE | GRAPHICS : !strcmp(word, "graphics") ? GRAPHICS : COMPUTE;
}

static void read_fault(const char *line) {
    Fault *fault = &world.faults[world.fault_count++];
    char answer[16] = "";
    text_of(line, "call", fault->call, sizeof fault->call);
    text_of(line, "answer", answer, sizeof answer);
    fault->gpu = number_of(line, "gpu");
    fault->answer = !strcmp(answer, "hang") ? HANG : !strcmp(answer, "crash") ? CRASH : atoi(answer);
}

static void read_link(const char *line) {
    Link *link = &world.links[world.link_count++];
    link->ends[0] = number_of(line, "a");
    link->ends[1] = number_of(line, "b");
    link->path = number_of(line, "path");
    link->nvlinks = number_of(line, "nvlinks");
}

static void read_script(void) {
    const char *path = getenv("NVML_STUB") ? getenv("NVML_STUB") : "/etc/nvml-stub.conf";
    FILE *script = fopen(path, "r");
    char line[1024];
    memset(&world, 0, sizeof world);
    if (!script) {
        fprintf(stderr, "nvml_stub: no script at NVML_STUB=%s\n", path);
        abort();
    }
    while (fgets(line, sizeof line, script)) {
        sscanf(line, "driver %79s", world.driver);
        sscanf(line, "cuda %d", &world.cuda);
        sscanf(line, "journal %511s", world.journal);
        if (!strncmp(line, "gpu ", 4)) read_device(line, 1);
        if (!strncmp(line, "mig ", 4)) read_device(line, 0);
        if (!strncmp(line, "process ", 8)) read_process(line);
        if (!strncmp(line, "fault ", 6)) read_fault(line);
        if (!strncmp(line, "link ", 5)) read_link(line);
        if (world.link_count == MAX) abort();
        if (world.device_count == MAX || world.process_count == MAX || world.fault_count == MAX) abort();
    }
    fclose(script);
}

static void note(const char *what) {
    FILE *journal = *world.journal ? fopen(world.journal, "a") : NULL;
    if (!journal) return;
    fprintf(journal, "%s\n", what);
    fclose(journal);
}

/* Start of each call: read the script; what it must answer at once, or SUCCESS to go on. `gpu` ABSENT: the host. */
static int begin(const char *call, int gpu) {
    read_script();
    for (Fault *fault = world.faults; fault < world.faults + world.fault_count; fault++) {
        if (*fault->call ? strcmp(fault->call, call) : gpu == ABSENT) continue;
        if (fault->gpu != ABSENT && fault->gpu != gpu) continue;
        if (fault->answer == CRASH) raise(SIGSEGV);
        while (fault->answer == HANG) pause();
        return fault->answer;
    }
    return sessions || !strcmp(call, "nvmlInitWithFlags") ? SUCCESS : UNINITIALIZED;
}

static int card_of(const Device *device) { return device->card == ABSENT ? device->position : device->card; }

#define BEGIN(gpu)                                      \
    do {                                                \
        int answer = begin(__func__, gpu);              \
        if (answer != SUCCESS) return answer;           \
    } while (0)

#define ANSWER_IF_SUPPORTED(place, value, scale)        \
    do {                                                \
        if ((value) == ABSENT) return NOT_SUPPORTED;    \
        *(place) = (unsigned)((value) * (scale));       \
        return SUCCESS;                                 \
    } while (0)

/* --- the host -------------------------------------------------------------------------------------------------- */

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    BEGIN(ABSENT);
    sessions++;
    note("init");
    return SUCCESS;
}

int nvmlShutdown(void) {
    BEGIN(ABSENT);
    sessions--;
    note("shutdown");
    return SUCCESS;
}

const char *nvmlErrorString(int code) {
    (void)code;
    return "an error that only this library knows";
}

int nvmlSystemGetDriverVersion(char *version, unsigned size) {
    BEGIN(ABSENT);
    snprintf(version, size, "%s", world.driver);
    return SUCCESS;
}

static int cuda_version(int *version) {
    *version = world.cuda;
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion(int *version) {
    BEGIN(ABSENT);
    return cuda_version(version);
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    BEGIN(ABSENT);
    *count = (unsigned)world.card_count;
    return SUCCESS;
}

static int find(int card, unsigned position, Device **found) {
    for (Device *each = world.devices; each < world.devices + world.device_count; each++)
        if (each->card == card && each->position == (int)position) {
            *found = each;
            return SUCCESS;
        }
    return NOT_FOUND;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    BEGIN((int)index);
    return find(ABSENT, index, device) == SUCCESS ? SUCCESS : INVALID_ARGUMENT;
}

/* --- a card or a MIG device ------------------------------------------------------------------------------------ */

int nvmlDeviceGetName(Device *device, char *name, unsigned size) {
    BEGIN(card_of(device));
    snprintf(name, size, "%s", device->name);
    return SUCCESS;
}

int nvmlDeviceGetUUID(Device *device, char *uuid, unsigned size) {
    BEGIN(card_of(device));
    snprintf(uuid, size, "%s", device->uuid);
    return SUCCESS;
}

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} PciInfo;

int nvmlDeviceGetPciInfo_v3(Device *device, PciInfo *info) {
    BEGIN(card_of(device));
    memset(info, 0, sizeof *info);
    snprintf(info->bus_id, sizeof info->bus_id, "%s", device->pci);
    return SUCCESS;
}

typedef struct {
    Bytes total, free, used;
} Memory;

/* As the real one: what the driver reserves counts as used. */
int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    BEGIN(card_of(device));
    if (!device->total) return NOT_SUPPORTED;
    memory->total = device->total;
    memory->used = device->used + device->reserved;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

typedef struct {
    unsigned gpu, memory;
} Utilisation;

int nvmlDeviceGetUtilizationRates(Device *device, Utilisation *rates) {
    BEGIN(card_of(device));
    rates->memory = 0;
    ANSWER_IF_SUPPORTED(&rates->gpu, device->util, 1);
}

int nvmlDeviceGetTemperature(Device *device, int sensor, unsigned *celsius) {
    (void)sensor;
    BEGIN(card_of(device));
    ANSWER_IF_SUPPORTED(celsius, device->temp, 1);
}

int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
    BEGIN(card_of(device));
    ANSWER_IF_SUPPORTED(milliwatts, device->power, 1000);
}

int nvmlDeviceGetPowerManagementLimit(Device *device, unsigned *milliwatts) {
    BEGIN(card_of(device));
    ANSWER_IF_SUPPORTED(milliwatts, device->limit, 1000);
}

int nvmlDeviceGetEccMode(Device *device, unsigned *current, unsigned *pending) {
    BEGIN(card_of(device));
    *pending = device->ecc == 1;
    ANSWER_IF_SUPPORTED(current, device->ecc, 1);
}

int nvmlDeviceGetMaxPcieLinkGeneration(Device *device, unsigned *generation) {
    BEGIN(card_of(device));
    ANSWER_IF_SUPPORTED(generation, device->gen, 1);
}

int nvmlDeviceGetMaxPcieLinkWidth(Device *device, unsigned *width) {
    BEGIN(card_of(device));
    ANSWER_IF_SUPPORTED(width, device->width, 1);
}

int nvmlDeviceGetTopologyCommonAncestor(Device *one, Device *other, int *path) {
    BEGIN(card_of(one));
    for (Link *each = world.links; each < world.links + world.link_count; each++)
        if ((each->ends[0] == card_of(one) && each->ends[1] == card_of(other)) ||
            (each->ends[1] == card_of(one) && each->ends[0] == card_of(other))) {
            ANSWER_IF_SUPPORTED(path, each->path, 1);
        }
    return NOT_SUPPORTED;
}

/* The card at the other end of a card's NVLink number `link`; ABSENT: it has no such link. */
static int far_end(int card, unsigned link) {
    for (Link *each = world.links; each < world.links + world.link_count; each++)
        for (int end = 0; end < 2; end++)
            if (each->ends[end] == card && each->nvlinks > 0) {
                if (link < (unsigned)each->nvlinks) return each->ends[1 - end];
                link -= (unsigned)each->nvlinks;
            }
    return ABSENT;
}

int nvmlDeviceGetNvLinkState(Device *device, unsigned link, unsigned *is_up) {
    BEGIN(card_of(device));
    *is_up = 1;
    return far_end(card_of(device), link) == ABSENT ? INVALID_ARGUMENT : SUCCESS;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(Device *device, unsigned link, PciInfo *info) {
    Device *other;
    BEGIN(card_of(device));
    if (find(ABSENT, (unsigned)far_end(card_of(device), link), &other) != SUCCESS) return INVALID_ARGUMENT;
    memset(info, 0, sizeof *info);
    snprintf(info->bus_id, sizeof info->bus_id, "%s", other->pci);
    return SUCCESS;
}

/* --- what came with later drivers ------------------------------------------------------------------------------ */

#ifndef OLD_DRIVER

int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    BEGIN(ABSENT);
    return cuda_version(version);
}

typedef struct {
    unsigned version;
    Bytes total, reserved, free, used;
} MemoryV2;

int nvmlDeviceGetMemoryInfo_v2(Device *device, MemoryV2 *memory) {
    BEGIN(card_of(device));
    if (memory->version != (sizeof(MemoryV2) | 2u << 24)) return VERSION_MISMATCH;
    if (!device->total) return NOT_SUPPORTED;
    memory->total = device->total;
    memory->reserved = device->reserved;
    memory->used = device->used;
    memory->free = memory->total - memory->used - memory->reserved;
    return SUCCESS;
}

typedef struct {
    unsigned version;
    int sensor, celsius;
} TemperatureV1;

int nvmlDeviceGetTemperatureV(Device *device, TemperatureV1 *temperature) {
    BEGIN(card_of(device));
    if (temperature->version != (sizeof(TemperatureV1) | 1u << 24)) return VERSION_MISMATCH;
    ANSWER_IF_SUPPORTED(&temperature->celsius, device->temp, 1);
}

int nvmlDeviceGetEnforcedPowerLimit(Device *device, unsigned *milliwatts) {
    BEGIN(card_of(device));
    ANSWER_IF_SUPPORTED(milliwatts, device->limit, 1000);
}

typedef struct {
    unsigned pid;
    Bytes used;
    unsigned gpu_instance, compute_instance;
} ProcessInfo;

static int list_processes(const Device *device, int as, unsigned *count, ProcessInfo *list) {
    unsigned found = 0, room = *count;
    for (Process *each = world.processes; each < world.processes + world.process_count; each++) {
        if (!(each->as & as) || strcmp(each->on, device->uuid)) continue;
        if (list && found < room) list[found] = (ProcessInfo){each->pid, each->used, -1u, -1u};
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *count, ProcessInfo *list) {
    BEGIN(card_of(device));
    return list_processes(device, COMPUTE, count, list);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *device, unsigned *count, ProcessInfo *list) {
    BEGIN(card_of(device));
    return list_processes(device, GRAPHICS, count, list);
}

int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    BEGIN(card_of(device));
    *pending = device->mig == 1;
    ANSWER_IF_SUPPORTED(current, device->mig, 1);
}

int nvmlDeviceGetMaxMigDeviceCount(Device *device, unsigned *count) {
    BEGIN(card_of(device));
    *count = device->mig == ABSENT ? 0 : 7;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Device *device, unsigned index, Device **slice) {
    BEGIN(card_of(device));
    return find(device->position, index, slice);
}

#endif
