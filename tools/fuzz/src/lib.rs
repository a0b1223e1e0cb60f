//! The driver of coverage-guided fuzzing: gives libFuzzer what `tests/fuzz/feeds` feeds to the readers.

#[path = "../../../tests/common/data.rs"]
mod data;
#[path = "../../../tests/fuzz/feeds/mod.rs"]
pub mod feeds;

use feeds::Target;
use std::cell::RefCell;
use std::path::PathBuf;

thread_local! {
    // libFuzzer runs all inputs on the thread that it started on.
    static TARGET: RefCell<Option<Target>> = const { RefCell::new(None) };
}

/// Makes the target; its seeds become files of the folder `$AVION_FUZZ_CORPUS`, which libFuzzer reads next.
pub fn begin(make: fn() -> Target) {
    let target = make();
    if let Some(folder) = std::env::var_os("AVION_FUZZ_CORPUS").map(PathBuf::from) {
        for (number, seed) in target.seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed).unwrap();
        }
    }
    TARGET.set(Some(target));
}

/// Whether the input was short enough to be tried.
pub fn run(input: &[u8]) -> bool {
    TARGET.with_borrow_mut(|target| {
        let target = target.as_mut().expect("begin comes first");
        let fits = input.len() <= target.max_len;
        if fits {
            target.run(input);
        }
        fits
    })
}

/// A fuzz target from the function that makes it.
#[cfg(feature = "libfuzzer")]
#[macro_export]
macro_rules! fuzz {
    ($make:path) => {
        libfuzzer_sys::fuzz_target!(init: $crate::begin($make), |input: &[u8]| -> libfuzzer_sys::Corpus {
            if $crate::run(input) { libfuzzer_sys::Corpus::Keep } else { libfuzzer_sys::Corpus::Reject }
        });
    };
}
