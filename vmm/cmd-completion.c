/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Completion for the shell, printed from the tables. The words that depend on the store are asked
 * of the program itself when the user presses the key. */
#include "vmm/command.h"

#include <stdio.h>
#include <string.h>

#include "vmm/cmd-help.h"

/* What a word in args_doc or in an option's arg is completed with. */
static const struct kind {
	const char *word, *action;
} kinds[] = {
	{ "GUEST", "guests" }, { "TEMPLATE", "templates" },
	{ "FILE", "files" },   { "DIR", "folders" },
	{ "PATH", "files" },   { "COMMAND]", "commands" }, /* of help */
};

static const char *action_of(const char *words)
{
	for (size_t i = 0; words && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strstr(words, kinds[i].word))
			return kinds[i].action;
	}
	return "nothing";
}

static void print_name(const struct argp_option *option, void *arg)
{
	printf(" --%s", option->name);
}

static void print_argument(const struct argp_option *option, void *arg)
{
	if (option->arg)
		printf("\t'%s --%s') action=%s ;;\n", (const char *)arg, option->name,
		       action_of(option->arg));
}

static void print_options(const struct cs_command *command, const char *path, void *arg)
{
	struct cs_command_argp wrapped;

	cs_command_argp(command, &wrapped);
	printf("\t'%s') action=%s options='--help", path, action_of(command->argp->args_doc));
	cs_option_each(&wrapped.argp, print_name, NULL);
	puts("' ;;");
}

static void print_arguments(const struct cs_command *command, const char *path, void *arg)
{
	cs_option_each(command->argp, print_argument, (void *)path);
}

static void print_names(const struct cs_command *const *commands)
{
	for (; *commands; commands++)
		printf(" %s", (*commands)->name);
}

static void print_groups(void)
{
	printf("\t'') action=words options='--help --version");
	cs_option_each(&cs_globals_argp, print_name, NULL);
	printf("' list='");
	for (const struct cs_command_group *g = cs_command_table; g->title; g++)
		print_names(g->commands);
	puts("' ;;");
	for (const struct cs_command_group *g = cs_command_table; g->title; g++) {
		for (const struct cs_command *const *c = g->commands; *c; c++) {
			if (!(*c)->members)
				continue;
			printf("\t%s) action=words options=--help list='", (*c)->name);
			print_names((*c)->members);
			puts("' ;;");
		}
	}
}

static void print_group_case(void)
{
	fputs("\t\t\t'')\n\t\t\t\tpath=$word\n\t\t\t\t;;\n", stdout);
	for (const struct cs_command_group *g = cs_command_table; g->title; g++) {
		for (const struct cs_command *const *c = g->commands; *c; c++) {
			if ((*c)->members)
				printf("\t\t\t%s)\n\t\t\t\tpath+=\" $word\"\n\t\t\t\t;;\n",
				       (*c)->name);
		}
	}
}

/* The words up to the cursor decide the command (path) and the store; then one case says what the
 * command takes, a second what the option before the cursor takes, and the last fills in. Behind
 * "--" stands the guest's command, of which this host knows nothing. */
static void print_bash(void)
{
	fputs("# bash completion for clearstore, printed by: clearstore completion bash\n"
	      "_clearstore() {\n"
	      "\tlocal word path='' action=nothing options='' list='' i=1\n"
	      "\tlocal cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}\n"
	      "\tlocal -a program=(\"${COMP_WORDS[0]}\")\n"
	      "\tCOMPREPLY=()\n"
	      "\tfor ((; i < COMP_CWORD; i++)); do\n"
	      "\t\tword=${COMP_WORDS[i]}\n"
	      "\t\tcase $word in\n"
	      "\t\t--) return ;;\n"
	      "\t\t--store)\n"
	      "\t\t\t((i + 1 < COMP_CWORD)) && program+=(--store \"${COMP_WORDS[i + 1]}\")\n"
	      "\t\t\t((++i))\n"
	      "\t\t\t;;\n"
	      "\t\t-*) ;;\n"
	      "\t\t*)\n"
	      "\t\t\tcase $path in\n",
	      stdout);
	print_group_case();
	fputs("\t\t\tesac\n\t\t\t;;\n\t\tesac\n\tdone\n\tcase $path in\n", stdout);
	print_groups();
	cs_command_each(print_options, NULL);
	fputs("\tesac\n\tcase \"$path $prev\" in\n\t*' --store') action=folders ;;\n", stdout);
	cs_command_each(print_arguments, NULL);
	fputs("\t*) [[ $cur == -* ]] && action=options ;;\n"
	      "\tesac\n"
	      "\tcase $action in\n"
	      "\tguests) list=$(\"${program[@]}\" list --quiet 2>/dev/null) ;;\n"
	      "\ttemplates) list=$(\"${program[@]}\" template list --quiet 2>/dev/null) ;;\n"
	      "\tcommands) list=$(\"${program[@]}\" help --list 2>/dev/null | grep -v ' ') ;;\n"
	      "\toptions) list=$options ;;\n"
	      "\tfiles) list='' && mapfile -t COMPREPLY < <(compgen -f -- \"$cur\") ;;\n"
	      "\tfolders) list='' && mapfile -t COMPREPLY < <(compgen -d -- \"$cur\") ;;\n"
	      "\tnothing) list='' ;;\n"
	      "\tesac\n"
	      "\t[[ -z $list ]] || mapfile -t COMPREPLY < <(compgen -W \"$list\" -- \"$cur\")\n"
	      "}\n"
	      "complete -o filenames -F _clearstore clearstore\n",
	      stdout);
}

struct completion_options {
	const char *shell;
};

static error_t parse_completion(int key, char *arg, struct argp_state *state)
{
	struct completion_options *o = state->input;

	switch (key) {
	case ARGP_KEY_ARG:
		if (o->shell || strcmp(arg, "bash") != 0)
			argp_error(state, "'%.40s': only bash is known", arg);
		o->shell = arg;
		return 0;
	case ARGP_KEY_NO_ARGS:
		argp_error(state, "no shell given (try bash)");
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static int run_completion(const struct cs_globals *globals, void *options, struct cs_err *err)
{
	print_bash();
	return 0;
}

static const struct argp completion_argp = {
	.parser = parse_completion,
	.args_doc = "bash",
	.doc = "Print completion for the shell; to have it in this one: "
	       "source <(clearstore completion bash)",
};

const struct cs_command cs_cmd_completion = {
	.name = "completion",
	.summary = "Print completion for the shell",
	.argp = &completion_argp,
	.options_bytes = sizeof(struct completion_options),
	.run = run_completion,
};
