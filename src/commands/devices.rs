//! `avion devices`.

use super::print;
use crate::cli::DevicesArgs;
use crate::device;
use anyhow::Result;

pub(super) fn run(args: DevicesArgs) -> Result<u8> {
    let listing = device::list();
    let checks = device::check_all(&listing);
    if args.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&device::json(&listing, &checks))?))?;
    } else {
        print(&device::render(&listing, &checks))?;
    }
    Ok(0)
}
