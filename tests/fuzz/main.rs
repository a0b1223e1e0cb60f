//! Every reader of files that somebody else wrote, with damaged and hostile ones: none may crash, hang, or take memory
//! that its file does not justify.
//!
//! `AVION_FUZZ_SECONDS=300 cargo test --release --test fuzz -- --nocapture --test-threads=1` looks for longer;
//! `make fuzz TARGET=manifest SECONDS=300` with libFuzzer.

#[path = "../common/data.rs"]
mod data;
mod engine;
mod feeds;

#[test]
fn pickle() {
    feeds::data::pickle().fuzz();
}

#[test]
fn narrations() {
    feeds::data::narrations().fuzz();
}

#[test]
fn tables() {
    feeds::data::tables().fuzz();
}

#[test]
fn lists() {
    feeds::data::lists().fuzz();
}

#[test]
fn captions() {
    feeds::data::captions().fuzz();
}

#[test]
fn torch_archive() {
    feeds::checkpoints::torch_archive().fuzz();
}

#[test]
fn safetensors() {
    feeds::checkpoints::safetensors().fuzz();
}

#[test]
fn recipes() {
    feeds::recipes::recipes().fuzz();
}

#[test]
fn metrics_and_times() {
    feeds::recipes::metrics_and_times().fuzz();
}

#[cfg(feature = "video")]
mod video {
    use super::feeds::{prepared, video};

    #[test]
    fn manifests() {
        prepared::manifests().fuzz();
    }

    #[test]
    fn journals() {
        prepared::journals().fuzz();
    }

    #[test]
    fn sources() {
        prepared::sources().fuzz();
    }

    #[test]
    fn packets() {
        video::packets().fuzz();
    }

    #[test]
    fn parameter_sets() {
        video::parameter_sets().fuzz();
    }

    #[test]
    fn indices() {
        video::indices().fuzz();
    }

    #[test]
    fn containers() {
        video::containers().fuzz();
    }

    #[test]
    fn files_of_videos() {
        video::files().fuzz();
    }
}
