# The job and its commands: docker build -t meterline . && docker run meterline check
FROM python:3.12-slim

# Not root, and with a number of its own, so that volumes can be given to it.
RUN useradd --uid 10001 --create-home meterline \
    && install -d -o meterline -g meterline /var/lib/meterline

WORKDIR /src
COPY . .
RUN pip install --no-cache-dir ".[pipeline]" -c constraints.txt && rm -rf /src/*

USER meterline
WORKDIR /home/meterline
# What the job compiles at its first start is kept on the volume too.
ENV METERLINE_STATE_DIR=/var/lib/meterline \
    NUMBA_CACHE_DIR=/var/lib/meterline/compiled \
    PYTHONUNBUFFERED=1
VOLUME /var/lib/meterline
ENTRYPOINT ["meterline"]
CMD ["--help"]
