//! Parses the command line, runs, and turns errors into text and an exit code.

use avion::cli::Cli;
use avion_kernels::cuda::Audience;
use clap::Parser;
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // SAFETY: no other thread has been started yet.
    unsafe { avion::device::skip_desktop_layer() };
    let cli = Cli::parse();
    let level = match cli.verbose {
        0 => "warn,avion=info",
        1 => "info,avion=debug",
        _ => "debug,avion=trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .without_time()
        .init();
    avion_kernels::cuda::on_message(|audience, message| match audience {
        Audience::User => tracing::info!("{message}"),
        Audience::Debugger => tracing::debug!("{message}"),
    });
    match avion::commands::run(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            avion::commands::print_error(error.as_ref());
            ExitCode::FAILURE
        }
    }
}
