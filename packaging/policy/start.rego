# Asked before the agent starts to enforce: whatever is in `deny` keeps it from starting, in these words. A server without Shield
# bans nobody, so deny only what is worse than that. The keys of `input` are in /usr/share/doc/shield/docs/policy.md; what could
# not be found out is not in it, and then denies nothing.
package shield.start

deny contains "disk below 1 GB" if input.disk.free_bytes < 1000000000

deny contains msg if {
	input.store.writable == false
	msg := sprintf("the database's folder cannot be written: %v", [input.store.folder])
}

deny contains "the clock is wrong: before 2025" if input.clock.unix_secs < 1735689600
