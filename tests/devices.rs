//! Listing, choosing and checking devices on whatever this machine has; Mesa's software Vulkan is enough.

use avion::device::{
    BackendChoice, DeviceError, Kind, check_all, choose, init, json, list, memory_used, render, self_check,
};

#[test]
fn a_listing_has_devices_or_says_why_not() {
    let listing = list();
    if listing.devices.is_empty() {
        assert!(listing.auto.is_none() && !listing.notes.is_empty());
        assert!(listing.notes.iter().any(|note| note.contains("install")));
    }
    for (position, info) in listing.devices.iter().enumerate() {
        assert!(!info.name.is_empty() && !info.driver.is_empty(), "{info:?}");
        assert!(listing.target(position).is_some());
        if info.problem.is_none() {
            assert!(info.dtypes.iter().any(|dtype| dtype.name == "f32" && dtype.arithmetic));
        }
    }
    let checks = check_all(&listing);
    let text = render(&listing, &checks);
    println!("{text}");
    for (info, check) in listing.devices.iter().zip(&checks) {
        assert!(text.contains(&info.name));
        assert!(!matches!(check, Some(Err(_))), "{text}");
    }
    let value = json(&listing, &checks);
    assert_eq!(value["devices"].as_array().map(Vec::len), Some(listing.devices.len()));
}

#[test]
fn auto_takes_what_the_listing_says() {
    let listing = list();
    match (choose(BackendChoice::Auto, None), listing.auto) {
        (Ok(chosen), Some(auto)) => {
            let listed = &listing.devices[auto.position];
            assert_eq!((chosen.info.backend, chosen.info.index), (listed.backend, listed.index));
            assert_eq!(chosen.why, auto.why);
            assert_eq!(chosen.why.contains("slow"), chosen.info.kind == Kind::Cpu);
        }
        (Err(error), None) => assert!(error.to_string().contains("install"), "{error}"),
        (chosen, auto) => panic!("choose and list disagree: {chosen:?}, {auto:?}"),
    }
}

#[test]
fn wrong_numbers_and_missing_backends_are_one_sentence() {
    for choice in [BackendChoice::Cuda, BackendChoice::Wgpu] {
        let error = choose(choice, Some(4711)).unwrap_err();
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text}");
        match error {
            DeviceError::NoSuchDevice { .. } => assert!(text.contains("4711") && text.contains("--device")),
            DeviceError::Unavailable { reason, .. } => assert!(!reason.remedy.is_empty()),
            DeviceError::NotCompiled { .. } => assert!(text.contains("--features")),
            other => panic!("{other}"),
        }
    }
    assert!("metal".parse::<BackendChoice>().unwrap_err().contains("auto, cuda or wgpu"));
}

#[test]
fn each_backend_passes_its_check_in_every_type_it_reports() {
    for choice in [BackendChoice::Cuda, BackendChoice::Wgpu] {
        let chosen = match choose(choice, None) {
            Ok(chosen) => chosen,
            Err(error) => {
                println!("SKIPPED: {error}");
                continue;
            }
        };
        init(&chosen.target).unwrap();
        init(&chosen.target).unwrap();
        let report = self_check(&chosen.target).unwrap();
        println!("{:.2} s on {}", report.seconds, chosen.why);
        for check in &report.checks {
            println!("  {:18} {:.1e} of {:.1e}", check.name, check.max_error, check.allowed);
            assert!(check.max_error <= check.allowed);
        }
        let names: Vec<_> = report.checks.iter().map(|check| check.name.as_str()).collect();
        for dtype in chosen.info.dtypes.iter().filter(|dtype| dtype.name != "u8") {
            for kernel in ["patch_ingest", "gemm", "adamw"] {
                assert!(names.contains(&format!("{kernel} {}", dtype.name).as_str()), "{names:?}");
            }
        }
        assert!(names.contains(&"grad_norm f32"));
        assert!(memory_used(&chosen.target).is_some());
    }
}
