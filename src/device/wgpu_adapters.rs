//! Adapters as CubeCL's wgpu runtime will see them.
//!
//! CubeCL asks one graphics API only (Vulkan on Linux and Windows, Metal on macOS) and counts adapters per kind in the
//! order of enumeration (cubecl-wgpu 0.10, `runtime.rs`, `select_from_adapter_list`). Asking the same API means that no
//! adapter appears twice, and that OpenGL and its window systems are never probed.

use super::{DeviceInfo, Kind, Problem, Target, info::Scan};
use cubecl::wgpu::{AutoGraphicsApi, GraphicsApi, WgpuDevice};
use wgpu::DeviceType;

/// Every adapter of the API CubeCL uses.
pub(super) fn scan() -> Scan {
    let api = AutoGraphicsApi::backend();
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: api.into(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapters = cubecl::future::block_on(instance.enumerate_adapters(api.into()));
    if adapters.is_empty() {
        return Scan::missing(no_adapter(api));
    }
    let kinds: Vec<_> = adapters.iter().map(|a| a.get_info().device_type).collect();
    let (mut found, mut notes) = (Vec::new(), Vec::new());
    for (position, adapter) in adapters.iter().enumerate() {
        let about = adapter.get_info();
        match runtime_name(&kinds, position) {
            Some(device) => {
                let info = describe(adapter, about, found.len());
                found.push((Target::Wgpu(device), info));
            }
            None => notes.push(format!("{} is there, but the runtime cannot select it", about.name)),
        }
    }
    Scan { found, missing: None, notes }
}

fn no_adapter(api: wgpu::Backend) -> Problem {
    match api {
        wgpu::Backend::Vulkan => Problem::new(
            "no Vulkan driver found",
            "install the GPU's driver, or `apt-get install libvulkan1 mesa-vulkan-drivers` (Debian, Ubuntu) for \
             Mesa's, which include software Vulkan",
        ),
        other => Problem::new(format!("no {other:?} adapter found"), "check that this system's GPU supports it"),
    }
}

/// What CubeCL calls the adapter at `position`, or `None` when no name of CubeCL's leads to it.
fn runtime_name(kinds: &[DeviceType], position: usize) -> Option<WgpuDevice> {
    let kind = kinds[position];
    let same = kinds[..position].iter().filter(|&&k| k == kind).count();
    match kind {
        DeviceType::DiscreteGpu => Some(WgpuDevice::DiscreteGpu(same)),
        DeviceType::IntegratedGpu => Some(WgpuDevice::IntegratedGpu(same)),
        DeviceType::VirtualGpu => Some(WgpuDevice::VirtualGpu(same)),
        // There is one CPU device without a number: the first.
        DeviceType::Cpu => (same == 0).then_some(WgpuDevice::Cpu),
        // Adapters of unknown kind are a kind's fallback, where it has too few of its own.
        DeviceType::Other => {
            let count = |kind| kinds.iter().filter(|&&k| k == kind).count();
            if count(DeviceType::VirtualGpu) <= same {
                Some(WgpuDevice::VirtualGpu(same))
            } else if count(DeviceType::IntegratedGpu) <= same {
                Some(WgpuDevice::IntegratedGpu(same))
            } else if count(DeviceType::DiscreteGpu) <= same {
                Some(WgpuDevice::DiscreteGpu(same))
            } else {
                None
            }
        }
    }
}

fn describe(adapter: &wgpu::Adapter, about: wgpu::AdapterInfo, index: usize) -> DeviceInfo {
    let kind = match about.device_type {
        DeviceType::DiscreteGpu => Kind::Discrete,
        DeviceType::IntegratedGpu => Kind::Integrated,
        DeviceType::VirtualGpu | DeviceType::Other => Kind::Virtual,
        DeviceType::Cpu => Kind::Cpu,
    };
    let driver = [format!("{:?}", about.backend), about.driver, about.driver_info];
    DeviceInfo {
        name: about.name,
        driver: driver.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", "),
        memory_total: memory_total(adapter),
        ..DeviceInfo::bare("wgpu", index, kind)
    }
}

/// Bytes in the memory heaps that are local to the device; known for Vulkan only.
fn memory_total(adapter: &wgpu::Adapter) -> Option<u64> {
    /// `VK_MEMORY_HEAP_DEVICE_LOCAL_BIT` of the Vulkan specification.
    const DEVICE_LOCAL: u32 = 1;
    // SAFETY: the raw handles are only read, while `adapter` keeps them alive.
    let memory = unsafe {
        let raw = adapter.as_hal::<wgpu::hal::api::Vulkan>()?;
        raw.shared_instance().raw_instance().get_physical_device_memory_properties(raw.raw_physical_device())
    };
    let heaps = memory.memory_heaps.iter().take(memory.memory_heap_count as usize);
    Some(heaps.filter(|heap| heap.flags.as_raw() & DEVICE_LOCAL != 0).map(|heap| heap.size).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use DeviceType::*;

    fn names(kinds: &[DeviceType]) -> Vec<Option<WgpuDevice>> {
        (0..kinds.len()).map(|i| runtime_name(kinds, i)).collect()
    }

    #[test]
    fn adapters_are_counted_per_kind_in_order() {
        let expected = [
            Some(WgpuDevice::IntegratedGpu(0)),
            Some(WgpuDevice::DiscreteGpu(0)),
            Some(WgpuDevice::Cpu),
            Some(WgpuDevice::DiscreteGpu(1)),
            None,
        ];
        assert_eq!(names(&[IntegratedGpu, DiscreteGpu, Cpu, DiscreteGpu, Cpu]), expected);
    }

    #[test]
    fn an_adapter_of_unknown_kind_takes_a_name_nobody_else_has() {
        let expected = [Some(WgpuDevice::VirtualGpu(0)), Some(WgpuDevice::IntegratedGpu(0))];
        assert_eq!(names(&[VirtualGpu, Other]), expected);
    }
}
