//! One autodiff node for any operation with a hand-written backward pass.
//!
//! A layer hands over its output together with a closure from the output's gradient to the input's. The closure owns
//! exactly the buffers the backward pass needs (what to keep is the layer's own policy) and adds weight gradients
//! straight into the flat gradient buffer, so weights are never nodes of the graph.

use super::tensor::{Ad, AdT, Inner, T, primitive, tensor};
use burn::backend::autodiff::{
    checkpoint::{base::Checkpointer, strategy::NoCheckpointing},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use burn::tensor::{Tensor, TensorPrimitive};
use burn_cubecl::{CubeRuntime, tensor::CubeTensor};
use std::sync::{Arc, Mutex};

type Closure<R> = Box<dyn FnOnce(CubeTensor<R>) -> Option<CubeTensor<R>> + Send>;

/// The closure, in the shape the graph wants its state: cloneable and printable, though it runs once.
struct State<R: CubeRuntime>(Arc<Mutex<Option<Closure<R>>>>);

impl<R: CubeRuntime> Clone for State<R> {
    fn clone(&self) -> Self {
        State(self.0.clone())
    }
}

impl<R: CubeRuntime> std::fmt::Debug for State<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("backward closure")
    }
}

#[derive(Debug)]
struct Node;

impl<R: CubeRuntime> Backward<Inner<R>, 1> for Node {
    type State = State<R>;

    fn backward(self, ops: Ops<State<R>, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [parent] = ops.parents;
        let gradient = grads.consume::<Inner<R>>(&ops.node);
        let closure = match ops.state.0.lock() {
            Ok(mut slot) => slot.take(),
            Err(poisoned) => poisoned.into_inner().take(),
        };
        let input_gradient = closure.and_then(|run| run(gradient));
        if let (Some(parent), Some(g)) = (parent, input_gradient) {
            grads.register::<Inner<R>>(parent.id, g);
        }
    }
}

/// Runs `forward` on the plain tensor behind `x` and makes its result one node of the graph.
///
/// `forward` returns the output and the backward closure: from the output's gradient to the input's, or `None` when the
/// input needs none (a leaf that only anchors the graph). When `x` is not tracked the closure is dropped at once, and
/// with it everything it would have kept: inference through the same code stores nothing.
pub fn differentiable<R, F, B, const D1: usize, const D2: usize>(x: AdT<R, D1>, forward: F) -> AdT<R, D2>
where
    R: CubeRuntime,
    F: FnOnce(T<R, D1>) -> (T<R, D2>, B),
    B: FnOnce(T<R, D2>) -> Option<T<R, D1>> + Send + 'static,
{
    let TensorPrimitive::Float(x) = x.into_primitive() else { unreachable!("no quantised tensor is ever made") };
    let node = x.node.clone();
    let (output, backward) = forward(tensor(x.primitive));
    let closure: Closure<R> = Box::new(move |gradient| backward(tensor(gradient)).map(primitive));
    let output = primitive(output);
    let output = match Node.prepare::<NoCheckpointing>([node]).compute_bound().stateful() {
        OpsKind::Tracked(prep) => prep.finish(State(Arc::new(Mutex::new(Some(closure)))), output),
        OpsKind::UnTracked(prep) => prep.finish(output),
    };
    Tensor::<Ad<R>, D2>::from_primitive(TensorPrimitive::Float(output))
}
