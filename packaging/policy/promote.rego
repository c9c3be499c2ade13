# Asked before a configuration that a canary tried goes live: whatever is in `deny` refuses it, in these words. Without a folder of
# rules, or one without this package, these very rules are asked. The keys of `input` are in /usr/share/doc/shield/docs/policy.md.
package shield.promote

# Lines that may be missing, of all.
most_lost_share := 0.01

# Clients that it would ban and the live rules do not, of all that are there; so many are always let pass.
most_new_share := 0.01

most_new_always := 5

# Bans of the live rules from which it counts that there would be less than half of them.
live_bans_that_count := 10

# A site in trouble is no measure: answers with 5xx, of all, and the time within which 99 of 100 answers come.
most_site_errors := 0.05

most_site_p99_ms := 2000

deny contains "it does not run: what it found is no more what it would do now" if input.state != "running"

deny contains msg if {
	input.observed_secs < input.least_secs
	msg := sprintf("it has observed for %v only, and %v is the least", [span(input.observed_secs), span(input.least_secs)])
}

deny contains "it has judged no line" if input.lines == 0

deny contains msg if {
	input.lost_share > most_lost_share
	msg := sprintf("it is incomplete: %v could not be judged in time", [counted(input.lost_lines, "line")])
}

deny contains "it is incomplete: more happened than it could take in or remember" if {
	not input.whole
	input.lost_lines == 0
}

deny contains msg if {
	input.candidate.known_good_hit > 0
	who := counted(input.candidate.known_good_hit, "client")
	msg := sprintf("it would ban %v served well within a day, and live they are not banned%v", [who, named("known_good")])
}

deny contains msg if {
	input.candidate.verified_bots_hit > 0
	who := counted(input.candidate.verified_bots_hit, "search engine")
	msg := sprintf("it would ban %v, verified by DNS%v", [who, named("verified_bot")])
}

# Nobody knows them yet, and most of what they asked for was answered well: the next visitors may look the same.
deny contains msg if {
	input.candidate.served_strangers_hit > input.clients * most_new_share
	who := counted(input.candidate.served_strangers_hit, "new client")
	msg := sprintf("it would ban %v whose requests were mostly answered well, and live they are not banned%v", [who, named("served_stranger")])
}

deny contains msg if {
	most := max([floor(input.clients * most_new_share), most_new_always])
	input.candidate.only > most
	msg := sprintf("it would ban %v that the live rules do not, and %v is the most (%v %% of %v)", [counted(input.candidate.only, "client"), most, most_new_share * 100, counted(input.clients, "client")])
}

deny contains msg if {
	input.live.bans >= live_bans_that_count
	input.candidate.bans * 2 < input.live.bans
	msg := sprintf("it would make %v where the live rules made %v: less than half", [counted(input.candidate.bans, "ban"), input.live.bans])
}

deny contains msg if {
	input.site.error_rate > most_site_errors
	msg := sprintf("%v %% of the site's answers are server errors, and %v %% is the most", [round(input.site.error_rate * 1000) / 10, most_site_errors * 100])
}

deny contains msg if {
	input.site.p99_ms > most_site_p99_ms
	msg := sprintf("the site is slow: 99 of 100 answers take up to %v ms, and %v ms is the most", [input.site.p99_ms, most_site_p99_ms])
}

# The first of the clients that it alone would ban and that are this.
named(what) := sprintf(": %v", [concat(", ", array.slice(who, 0, 5))]) if {
	who := [one.client | some one in input.differing; one.banned_by == "candidate"; one[what]]
	count(who) > 0
} else := ""

counted(n, what) := sprintf("%v %v", [n, what]) if n == 1

counted(n, what) := sprintf("%v %vs", [n, what]) if n != 1

span(secs) := sprintf("%v s", [secs]) if secs < 60

span(secs) := sprintf("%v min", [floor(secs / 60)]) if {
	secs >= 60
	secs < 3600
}

span(secs) := sprintf("%v h", [floor(secs / 360) / 10]) if secs >= 3600
