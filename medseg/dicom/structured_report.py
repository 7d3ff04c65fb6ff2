"""Measurements as a DICOM structured report that refers to the segments they were taken from.

Follows TID 1500 (Measurement Report, PS3.16) as a Comprehensive 3D SR. It is preliminary and unverified: no person has
looked at it. Where nothing was found the report says just that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import highdicom as hd
from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medseg import __version__
from medseg.dicom.codes import (
    ARTIFICIAL_INTELLIGENCE,
    LARGEST_DIAMETER,
    MILLILITRE,
    MILLIMETRE,
    VOLUME,
    meaning_of,
)
from medseg.dicom.origin import MANUFACTURER, Origin, new_object
from medseg.dicom.parametric_map import ENTROPY
from medseg.dicom.segmentation import Segment
from medseg.dicom.sources import completed
from medseg.evaluation.measurements import Intensities, Measurement

_NO_FINDING = Code("no-structure-found", "99MEDSEG", "No structure was found by the model")
_UNUSUAL = Code("unusual-image", "99MEDSEG", "The image is unlike those that the model was checked on")
_HAS_PROPERTIES = sr.RelationshipTypeValues.HAS_PROPERTIES
_NATS = Code("1", "UCUM", "no units")


def make_report(
    sources: Sequence[Dataset],
    segmentation: hd.seg.Segmentation | None,
    segments: Sequence[Segment],
    measurements: Mapping[str, Measurement],
    origin: Origin,
    warnings: Sequence[str] = (),
) -> sr.Comprehensive3DSR:
    """The report, not yet written; ``warnings`` of the image stand before everything else.

    ``measurements`` are those of the segments by the name of their structure; without a ``segmentation`` nothing was
    found. ``sources`` are the headers of the series.
    """
    sources = completed(sources)
    groups = [] if segmentation is None else [
        _group(segmentation, segment, measurements[segment.target.name], sources, origin) for segment in segments
    ]  # fmt: skip
    content = sr.MeasurementReport(
        observation_context=_observer(origin),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[
            *(_statement(_UNUSUAL, sources, origin, warning=warning) for warning in warnings),
            *(groups or [_statement(_NO_FINDING, sources, origin)]),
        ],
        title=codes.DCM.ImagingMeasurementReport,
        # Of an enhanced image highdicom can't describe the library entry; the evidence names it all the same.
        referenced_images=None if "NumberOfFrames" in sources[0] else list(sources),
    )
    evidence = [*sources] if segmentation is None else [segmentation, *sources]
    report = sr.Comprehensive3DSR(
        evidence=evidence,
        content=content[0],
        manufacturer=MANUFACTURER,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=origin.series_description,
        **new_object("SR"),
    )
    report.ManufacturerModelName = origin.name
    report.SoftwareVersions = __version__
    report.DeviceSerialNumber = origin.checksum[:16]
    return report


def _observer(origin: Origin) -> sr.ObservationContext:
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=hd.UID(),
        name=origin.name,
        manufacturer_name=MANUFACTURER,
        model_name=origin.name,
        serial_number=origin.checksum[:16],
    )
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=device
        )
    )


def _algorithm(origin: Origin, **more: str) -> sr.AlgorithmIdentification:
    parameters = [f"{name}={value}" for name, value in {**origin.parameters, **more}.items()]
    return sr.AlgorithmIdentification(origin.name, __version__, parameters, ARTIFICIAL_INTELLIGENCE, MANUFACTURER)


def _group(
    segmentation: hd.seg.Segmentation,
    segment: Segment,
    measured: Measurement,
    sources: Sequence[Dataset],
    origin: Origin,
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """TID 1411: what is said of one segment."""
    meaning = meaning_of(segment.target.name, segment.target.code)
    reference = sr.ReferencedSegment(
        segmentation.SOPClassUID,
        segmentation.SOPInstanceUID,
        segment.number,
        source_series=sr.SourceSeriesForSegmentation(sources[0].SeriesInstanceUID),
    )
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(segment.tracking_uid, segment.target.name[:64]),
        referenced_segment=reference,
        finding_category=meaning.category,
        finding_type=meaning.kind,
        algorithm_id=_algorithm(origin),
        measurements=list(_values(measured, str(sources[0].get("Modality", "")), origin)),
    )


def _values(measured: Measurement, modality: str, origin: Origin) -> Iterator[sr.Measurement]:
    yield _volume(measured, origin)
    yield sr.Measurement(LARGEST_DIAMETER, _rounded(measured.largest_diameter_mm), MILLIMETRE)
    for channel in measured.intensities[:1]:  # the series that the segments lie on
        yield from _intensity(channel, modality)
    if measured.mean_entropy_nats is not None:
        yield sr.Measurement(ENTROPY, _rounded(measured.mean_entropy_nats), _NATS, derivation=codes.SCT.Mean)


def _volume(measured: Measurement, origin: Origin) -> sr.Measurement:
    """With its interval: how far up and down it goes by TID 310, and its ends and rate in words, for which it has none.

    Where the volume of the labels is not in the interval, which is about the true one, there is no up and down.
    """
    volume, known = _rounded(measured.volume_ml), measured.volume_interval
    if known is None:
        return sr.Measurement(VOLUME, volume, MILLILITRE)
    properties = sr.MeasurementProperties()
    if known.low_ml <= measured.volume_ml <= known.high_ml:
        # Not highdicom's own arguments, which say that a volume has no unit.
        for concept, extent in (
            (codes.SCT.RangeOfUpperMeasurementUncertainty, known.high_ml - measured.volume_ml),
            (codes.SCT.RangeOfLowerMeasurementUncertainty, measured.volume_ml - known.low_ml),
        ):
            properties.append(
                sr.NumContentItem(concept, _rounded(extent), MILLILITRE, relationship_type=_HAS_PROPERTIES)
            )
    interval, rate = f"{known.low_ml:.6g} to {known.high_ml:.6g}", f"{known.rate:g}"
    algorithm = _algorithm(origin, volume_interval_ml=interval, volume_interval_rate=rate)
    return sr.Measurement(VOLUME, volume, MILLILITRE, properties=properties, algorithm_id=algorithm)


def _intensity(channel: Intensities, modality: str) -> Iterator[sr.Measurement]:
    quantity, unit = {
        "CT": (codes.DCM.AttenuationCoefficient, codes.UCUM.HounsfieldUnit),
        "MR": (codes.DCM.MRSignalIntensity, codes.UCUM.NoUnits),
    }.get(modality, (_VALUE, codes.UCUM.NoUnits))
    for derivation, value in (
        (codes.SCT.Mean, channel.mean),
        (codes.SCT.StandardDeviation, channel.standard_deviation),
        (codes.SCT.Minimum, channel.minimum),
        (codes.SCT.Maximum, channel.maximum),
    ):
        yield sr.Measurement(quantity, _rounded(value), unit, derivation=derivation)


_VALUE = Code("pixel-value", "99MEDSEG", "Value of the image")


def _statement(
    finding: Code, sources: Sequence[Dataset], origin: Origin, **more: str
) -> sr.MeasurementsAndQualitativeEvaluations:
    """TID 1501 with one statement of the whole series; ``more`` tells of it in words, for which it has no place."""
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(hd.UID(), "whole series"),
        algorithm_id=_algorithm(origin, **more),
        qualitative_evaluations=[sr.QualitativeEvaluation(codes.DCM.Finding, finding)],
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(sources[0])],
    )


def _rounded(value: float) -> float:
    """Six significant digits: more would not fit into a decimal string of 16 characters, nor mean anything."""
    return float(f"{value:.6g}")
