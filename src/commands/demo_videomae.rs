//! `avion demo videomae`.

use crate::cli::DemoArgs;
use anyhow::Result;

pub(super) fn run(_: DemoArgs) -> Result<u8> {
    anyhow::bail!("the demo of VideoMAE is not there yet; `avion demo` shows contrastive training")
}
