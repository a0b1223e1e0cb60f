//! How work outside CubeCL is ordered with CubeCL's own.
//!
//! CubeCL 0.10 keeps its CUDA stream private. Two ways around it:
//! - the stream's address is part of the server's `Debug` output; work queued on that very stream needs no events, and
//!   the device sees no gap between kernels;
//! - events on the whole context (`cuCtxRecordEvent`, `cuCtxWaitEvent`, drivers of CUDA 12.5 and later): about 10 us of
//!   host time a pair and a few us of idle device at each change of stream.
//!
//! The first is taken when the output reads as expected (streams live as long as the process), else the second;
//! `AVION_CUDA_EVENTS=1` forces the second.

use super::gpu::{Server, check};
use cubecl::stream_id::StreamId;
use cudarc::driver::sys as cu;

/// First CUDA version whose driver orders streams by context events.
const CONTEXT_EVENTS_SINCE: i32 = 12_050;

/// CubeCL's queue of one [`StreamId`].
#[derive(Debug, Clone, Copy)]
pub struct Queue {
    pub context: cu::CUcontext,
    /// The stream itself; without it, ordering is by context events.
    pub stream: Option<cu::CUstream>,
}

// SAFETY: handles of the driver, which is thread-safe.
unsafe impl Send for Queue {}

impl Queue {
    /// The queue of `id`, whose stream CubeCL must have created.
    pub fn of(server: &Server, id: StreamId, context: cu::CUcontext, driver: i32) -> Result<Self, String> {
        let forced = std::env::var_os("AVION_CUDA_EVENTS").is_some_and(|v| v == "1");
        let stream = if forced { None } else { find_stream(&format!("{server:#?}"), id.value) };
        let stream = stream.map(|address| address as cu::CUstream).filter(|stream| {
            let mut owner = std::ptr::null_mut();
            // SAFETY: the address was printed from a field that holds a live stream.
            let known = unsafe { cu::cuStreamGetCtx(*stream, &mut owner) };
            known == cu::CUresult::CUDA_SUCCESS && owner == context
        });
        if stream.is_none() && driver < CONTEXT_EVENTS_SINCE {
            return Err(format!("the driver supports CUDA {driver}, and ordering needs {CONTEXT_EVENTS_SINCE}"));
        }
        let by = if stream.is_some() { "on CubeCL's own stream" } else { "by context events" };
        super::say(|| format!("CUDA work of stream {} is ordered {by}", id.value));
        Ok(Queue { context, stream })
    }

    /// Records `event` after everything CubeCL has queued so far.
    pub fn record(&self, event: cu::CUevent) -> Result<(), String> {
        // SAFETY: live handles; the context is the event's.
        check(unsafe {
            match self.stream {
                Some(stream) => cu::cuEventRecord(event, stream),
                None => cu::cuCtxRecordEvent(self.context, event),
            }
        })
    }

    /// Holds back everything CubeCL queues from now on until `event`.
    pub fn wait(&self, event: cu::CUevent) -> Result<(), String> {
        // SAFETY: live handles; the context is the event's.
        check(unsafe {
            match self.stream {
                Some(stream) => cu::cuStreamWaitEvent(stream, event, 0),
                None => cu::cuCtxWaitEvent(self.context, event),
            }
        })
    }
}

/// Address of the stream that `id` maps to (`id` modulo the number of streams), read off a CUDA server's `{:#?}`.
///
/// Lines are told apart by their indentation, so nothing that another field prints can be taken for a stream.
fn find_stream(debug: &str, id: u64) -> Option<usize> {
    let mut lines = debug.lines().skip_while(|line| line.trim() != "streams: StreamPool {").skip(1).peekable();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let list = indent(lines.peek()?);
    (lines.next()?.trim() == "streams: [").then_some(())?;
    let mut streams: Vec<Option<usize>> = Vec::new();
    let mut in_stream = false;
    for line in lines {
        match (indent(line) - list.min(indent(line)), line.trim()) {
            (4, "None," | "Some(") => streams.push(None),
            (12, field) => in_stream = field == "stream: Stream {",
            (16, field) if in_stream => {
                if let Some(address) = field.strip_prefix("sys: 0x") {
                    *streams.last_mut()? = usize::from_str_radix(address.trim_end_matches(','), 16).ok();
                }
            }
            (0, field) => {
                if let Some(count) = field.strip_prefix("max_streams: ") {
                    let count: u64 = count.trim_end_matches(',').parse().ok()?;
                    let index = usize::try_from(id.checked_rem(count)?).ok()?;
                    return (*streams.get(index)?).filter(|address| *address != 0);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::find_stream;

    // The shape of CubeCL's server, with its field names.
    #[derive(Debug)]
    #[allow(dead_code)]
    struct Stream {
        sys: *mut u8,
        memory_management_gpu: Vec<Option<&'static str>>,
    }
    #[derive(Debug)]
    #[allow(dead_code)]
    struct StreamWrapper {
        stream: Stream,
        cursor: u64,
        last_synced: Vec<u64>,
    }
    #[derive(Debug)]
    #[allow(dead_code)]
    struct StreamPool {
        streams: Vec<Option<StreamWrapper>>,
        factory: &'static str,
        max_streams: usize,
    }
    #[derive(Debug)]
    #[allow(dead_code)]
    struct MultiStream {
        streams: StreamPool,
        logger: (),
    }
    #[derive(Debug)]
    #[allow(dead_code)]
    struct CudaServer {
        ctx: Vec<&'static str>,
        streams: MultiStream,
        comm_stream: *mut u8,
    }

    fn server() -> String {
        let wrapper = |address: usize| {
            let memory_management_gpu = vec![None, Some("sys: 0x1,\n None,\n streams: StreamPool {")];
            let stream = Stream { sys: address as *mut u8, memory_management_gpu };
            Some(StreamWrapper { stream, cursor: 3, last_synced: vec![1] })
        };
        let streams = vec![None, wrapper(0x7f00_1230), None, wrapper(0x7f00_4560), wrapper(0x99)];
        let streams = MultiStream { streams: StreamPool { streams, factory: "f", max_streams: 4 }, logger: () };
        format!("{:#?}", CudaServer { ctx: vec!["None,"], streams, comm_stream: 0x55 as *mut u8 })
    }

    #[test]
    fn the_stream_of_an_id_is_found() {
        let debug = server();
        assert_eq!(find_stream(&debug, 1), Some(0x7f00_1230));
        assert_eq!(find_stream(&debug, 7), Some(0x7f00_4560));
        assert_eq!(find_stream(&debug, 9), Some(0x7f00_1230));
    }

    #[test]
    fn a_stream_that_is_not_there_is_not_made_up() {
        let debug = server();
        assert_eq!(find_stream(&debug, 0), None);
        assert_eq!(find_stream(&debug.replace("sys: ", "raw: "), 1), None);
        assert_eq!(find_stream(&debug.replace("max_streams", "limit"), 1), None);
        assert_eq!(find_stream("", 1), None);
    }
}
