import threading

import numpy as np
import torch

from medseg.cases.case import Case
from medseg.images.formats import write_image
from medseg.inference.options import Options
from medseg.inference.pipeline import predict_cases
from medseg.inference.predict import Prediction, predict_case
from medseg.progress import Silent

from tiny_networks import CPU, image_of, model_of


def cases_in(folder, count: int) -> list[Case]:
    cases = []
    for index in range(count):
        image = image_of((18 + index, 20, 17), index)
        path = folder / f"case_{index}.nii.gz"
        write_image(path, image.array[0], image)
        cases.append(Case(path.name.removesuffix(".nii.gz"), (path,)))
    return cases


def test_cases_are_delivered_in_order_with_the_errors_of_those_that_fail(tmp_path):
    cases, model = cases_in(tmp_path, 5), model_of(4)
    cases[0].images[0].write_bytes(b"nothing")
    cases[3].images[0].write_bytes(cases[3].images[0].read_bytes()[:500])
    options, found, threads = Options(CPU), [], set()

    def deliver(outcome):
        found.append(outcome)
        threads.add(threading.current_thread().name)

    announced = []
    predict_cases(cases, model, options, Silent(), deliver, lambda case, memory: announced.append(case.name))
    assert [outcome.case.name for outcome in found] == [case.name for case in cases]
    assert [isinstance(outcome.result, Exception) for outcome in found] == [True, False, False, True, False]
    assert len(threads) == 1
    assert threads != {threading.current_thread().name}
    for index in (1, 2, 4):
        assert isinstance(found[index].result, Prediction)
        alone = predict_case(cases[index], model, options, Silent())
        np.testing.assert_array_equal(found[index].result.indices, alone.indices)
    assert set(announced) >= {"case_1", "case_2", "case_4"}


def test_the_next_case_is_read_while_one_is_computed_unless_there_is_no_memory_for_both(tmp_path):
    from medseg.inference.memory import estimate_memory, resident_bytes

    cases, model = cases_in(tmp_path, 3), model_of(4)
    reading = []

    class Watching(torch.nn.Module):
        def __init__(self, inside):
            super().__init__()
            self.inside = inside

        def forward(self, tiles):
            reading.append(any(thread.name.startswith("read") for thread in threading.enumerate()))
            return self.inside(tiles)

    from dataclasses import replace

    watched = replace(model, networks=(Watching(model.networks[0]),))
    predict_cases(cases, watched, Options(CPU), Silent(), lambda outcome: None)
    assert any(reading)
    reading.clear()
    needed = estimate_memory(image_of((20, 20, 17)), watched, Options(CPU)).host
    tight = Options(CPU, max_memory=resident_bytes() + needed + 50_000)
    results = []
    predict_cases(cases, watched, tight, Silent(), lambda outcome: results.append(outcome.result))
    assert all(isinstance(result, Prediction) for result in results)
    assert not any(reading)
