package shield.start_test

import data.shield.start

good := {
	"disk": {"free_bytes": 5000000000},
	"store": {"writable": true, "folder": "/var/lib/shield"},
	"clock": {"unix_secs": 1800000000},
}

test_a_good_host_starts if count(start.deny) == 0 with input as good

test_what_is_not_known_denies_nothing if count(start.deny) == 0 with input as {}

test_a_full_disk if {
	start.deny == {"disk below 1 GB"} with input as object.union(good, {"disk": {"free_bytes": 999999999}})
}

test_a_store_that_cannot_be_written if {
	start.deny == {"the database's folder cannot be written: /var/lib/shield"} with input as object.union(good, {"store": {"writable": false}})
}

test_a_wrong_clock if {
	start.deny == {"the clock is wrong: before 2025"} with input as object.union(good, {"clock": {"unix_secs": 0}})
}
