// SPDX-License-Identifier: GPL-2.0-only
/*
 * Names of sockets, taken when they appear. nm_sock_create runs in the process that asks for a socket, attached to the root of
 * the cgroup2 tree: it sees all of the host (needed: 5.10 for socket storage here). nm_sock_older runs once at start, over the
 * files of all tasks, for sockets that were there before (5.11; without it they are known by cgroup). Both write nm_sockets,
 * nm_names and nm_cgroups; neither refuses anything. Neither is loaded when features.process_attribution is off.
 */
#include "nm_who.h"

#define NM_INIT 1 /* systemd holds the sockets of the services that it activates */

struct kernfs_node___nm {
	u64 id;
	const char *name;
	struct kernfs_node___nm *parent;
} __attribute__((preserve_access_index));

/* 6.15 */
struct kernfs_node___rcu {
	struct kernfs_node___nm *__parent;
} __attribute__((preserve_access_index));

struct cgroup___nm {
	struct kernfs_node___nm *kn;
} __attribute__((preserve_access_index));

struct css_set___nm {
	struct cgroup___nm *dfl_cgrp;
} __attribute__((preserve_access_index));

struct task_struct___nm {
	int tgid;
	char comm[16];
	struct task_struct___nm *group_leader;
	struct css_set___nm *cgroups;
} __attribute__((preserve_access_index));

struct file;
struct task_struct;

struct socket___nm {
	struct sock *sk;
} __attribute__((preserve_access_index));

struct bpf_iter__task_file {
	struct task_struct *task;
	struct file *file;
} __attribute__((preserve_access_index));

static __always_inline struct kernfs_node___nm *nm_parent(struct kernfs_node___nm *node)
{
	struct kernfs_node___rcu *rcu = (void *)node;

	if (bpf_core_field_exists(rcu->__parent))
		return BPF_CORE_READ(rcu, __parent);
	return BPF_CORE_READ(node, parent);
}

/* Takes down where the cgroup is: it may be gone before the agent asks. */
static __always_inline void nm_keep_path(struct kernfs_node___nm *node, u64 cgroup)
{
	struct nm_path *path = bpf_map_lookup_elem(&nm_cgroups, &cgroup);
	struct kernfs_node___nm *parent;
	u32 i;

	if (path)
		return;
	if (bpf_map_update_elem(&nm_cgroups, &cgroup, (const void *)&nm_no_path, BPF_ANY))
		goto lost;
	path = bpf_map_lookup_elem(&nm_cgroups, &cgroup);
	if (!path)
		goto lost;
	for (i = 0; i < NM_LEVELS; i++) {
		parent = nm_parent(node);
		if (!parent)
			break;
		bpf_probe_read_kernel_str(path->names + i * NM_LEVEL_BYTES, NM_LEVEL_BYTES, BPF_CORE_READ(node, name));
		node = parent;
	}
	/* Last: it says that the names are there. */
	path->level_bytes = NM_LEVEL_BYTES;
	barrier();
	path->levels = i;
	return;
lost:
	nm_note(NM_KIND_NAME_LOST);
}

static __always_inline u32 nm_name_hash(const struct nm_name *name)
{
	const u64 *words = (const u64 *)name;
	u64 hash = 0;
	u32 i;

#pragma unroll
	for (i = 0; i < sizeof(*name) / 8; i++)
		hash = ((hash ^ words[i]) * 0xff51afd7ed558ccdULL) ^ hash >> 29;
	return hash >> 32;
}

static __always_inline bool nm_same_name(const struct nm_name *a, const struct nm_name *b)
{
	const u64 *one = (const u64 *)a, *other = (const u64 *)b;
	u64 differs = 0;
	u32 i;

#pragma unroll
	for (i = 0; i < sizeof(*a) / 8; i++)
		differs |= one[i] ^ other[i];
	return !differs;
}

/* The number of a task's name: that of its thread group's leader, which keeps it when threads take names of their own. */
static __always_inline u32 nm_name_of(struct task_struct___nm *task)
{
	struct kernfs_node___nm *node = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn);
	struct nm_name name = {}, *known;
	u32 who, i = 0;

	name.tgid = BPF_CORE_READ(task, tgid);
	name.cgroup = BPF_CORE_READ(node, id);
	BPF_CORE_READ_STR_INTO(&name.comm, task, group_leader, comm);
	who = nm_name_hash(&name);
	/* Two names on one number: the later takes the next. */
	do {
		who = ((who + i) & ~NM_WHO_FLAGS) ?: 1;
		known = bpf_map_lookup_elem(&nm_names, &who);
		if (!known) {
			if (name.cgroup > NM_ROOT_CGROUP)
				nm_keep_path(node, name.cgroup);
			if (!bpf_map_update_elem(&nm_names, &who, &name, BPF_NOEXIST))
				return who;
			known = bpf_map_lookup_elem(&nm_names, &who);
			if (!known)
				break;
		}
		if (nm_same_name(known, &name))
			return who;
	} while (++i < 4);
	nm_note(NM_KIND_NAME_LOST);
	return 0;
}

SEC("cgroup/sock_create")
int nm_sock_create(struct bpf_sock *sk)
{
	u32 who = nm_name_of((void *)bpf_get_current_task());

	if (who && !bpf_sk_storage_get(&nm_sockets, sk, &who, BPF_SK_STORAGE_GET_F_CREATE))
		nm_note(NM_KIND_NAME_LOST);
	return 1;
}

SEC("iter/task_file")
int nm_sock_older(struct bpf_iter__task_file *context)
{
	struct task_struct___nm *task = (void *)context->task;
	struct file *file = context->file;
	struct socket___nm *socket;
	struct nm_name *name;
	u32 who, *held;

	if (!task || !file)
		return 0;
	socket = (void *)bpf_sock_from_file(file);
	if (!socket || !socket->sk)
		return 0;
	held = bpf_sk_storage_get(&nm_sockets, (void *)socket->sk, NULL, 0);
	if (held) {
		u32 key = *held;

		name = bpf_map_lookup_elem(&nm_names, &key);
		if (!name || name->tgid != NM_INIT)
			return 0;
	}
	who = nm_name_of(task);
	if (!who)
		return 0;
	if (held)
		*held = who;
	else if (!bpf_sk_storage_get(&nm_sockets, (void *)socket->sk, &who, BPF_SK_STORAGE_GET_F_CREATE))
		nm_note(NM_KIND_NAME_LOST);
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
