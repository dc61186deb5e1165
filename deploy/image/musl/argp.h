/* Stands in for glibc's <argp.h>, which musl lacks: elfutils compiles lib/color.c and lib/printversion.c with it, libelf itself
 * never calls it. */
#pragma once

#include <errno.h>
#include <stdio.h>

#define OPTION_ARG_OPTIONAL 0x1
#define OPTION_HIDDEN 0x2
#define ARGP_HELP_SEE 0x40
#define ARGP_HELP_EXIT_ERR 0x100
#define ARGP_ERR_UNKNOWN E2BIG

typedef int error_t;

struct argp;
struct argp_child;

struct argp_state {
	const struct argp *root_argp;
	int argc;
	char **argv;
	int next;
	unsigned flags;
	unsigned arg_num;
	int quoted;
	void *input;
	void **child_inputs;
	void *hook;
	char *name;
	FILE *err_stream;
	FILE *out_stream;
	void *pstate;
};

struct argp_option {
	const char *name;
	int key;
	const char *arg;
	int flags;
	const char *doc;
	int group;
};

typedef error_t (*argp_parser_t)(int key, char *arg, struct argp_state *state);

struct argp {
	const struct argp_option *options;
	argp_parser_t parser;
	const char *args_doc;
	const char *doc;
	const struct argp_child *children;
	char *(*help_filter)(int key, const char *text, void *input);
	const char *argp_domain;
};

void argp_error(const struct argp_state *state, const char *format, ...);
void argp_help(const struct argp *argp, FILE *stream, unsigned flags, char *name);
