# Asked after a rule's verdict about a client, and after the allowlist, before the ban is made. What it may answer, and every key of
# `input`, is in /usr/share/doc/shield/docs/policy.md.
#
# action:  "ban" (the verdict stands), "observe" (nothing is done, and said) or "slow"
# term:    in seconds, or "permanent"; without it the term that Shield would give
# because: the words that are shown with the ban
package shield.ban

default decision := {"action": "ban"}

# Two examples. A rule is not to ban during the nightly import, and the office is never banned for more than ten minutes:
#
# decision := {"action": "observe", "because": "the nightly import looks like a flood"} if {
# 	input.rule == "flood"
# 	input.time.hour in {2, 3}
# }
#
# decision := {"action": "ban", "term": 600, "because": "the office"} if {
# 	net.cidr_contains("198.51.100.0/24", input.client)
# }
