#![no_main]

avion_fuzz::fuzz!(avion_fuzz::feeds::recipes::metrics_and_times);
