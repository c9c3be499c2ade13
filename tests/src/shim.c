/* An agent that is another version in one respect, for the tests of an upgrade: REAL with these changes.
 *
 *   REAL       the agent that is run
 *   COMMAND    the first argument that is changed, and SECOND the second one, where it matters
 *   SAYS       what it says and fails with; or
 *   CONFIG     the configuration that it has instead of the one that it is told
 *   HANGS      it does nothing, for ever
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    (void)argc;
    if (argc > 1 && strcmp(argv[1], COMMAND) == 0
#ifdef SECOND
        && argc > 2 && strcmp(argv[2], SECOND) == 0
#endif
    ) {
#ifdef HANGS
        for (;;) pause();
#endif
#ifdef SAYS
        fprintf(stderr, "%s\n", SAYS);
        return 1;
#endif
#ifdef CONFIG
        for (int at = 2; at + 1 < argc; at++) {
            if (strcmp(argv[at], "--config") == 0) argv[at + 1] = CONFIG;
        }
#endif
    }
    argv[0] = REAL;
    execv(REAL, argv);
    perror("execv");
    return 1;
}
